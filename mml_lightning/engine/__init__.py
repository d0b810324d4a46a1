"""One job: train, evaluate."""
