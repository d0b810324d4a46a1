"""Logits to numbers: `metrics` (torch only), predictions of a run, ensembles, submissions."""
