"""The two command lines: `mml`, and the start of train.py and eval.py."""
