"""Decoders, folders of images and the reading side of packs: files to frames."""
