"""Subcommands of `mml`: each declares its arguments and imports what it needs when it runs."""
