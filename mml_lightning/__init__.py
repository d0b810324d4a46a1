"""Mutual Modality Learning on video. Nothing is imported here, so that the command line stays quick."""

__version__ = "0.1.0"
