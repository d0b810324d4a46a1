"""Packs: the encoded frames and flow of a dataset in a few files, for random access. docs/pack.md is the format."""
