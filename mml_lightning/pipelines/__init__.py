"""Many runs in one command: what is declared, planned, reused, trained side by side and laid out as tables."""
