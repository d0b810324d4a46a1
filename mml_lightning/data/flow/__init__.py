"""Optical flow of a dataset: engines, the cache, filling and exporting it."""
