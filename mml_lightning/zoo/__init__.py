"""Weight files: their format, where a network starts, checkpoints of other projects."""
