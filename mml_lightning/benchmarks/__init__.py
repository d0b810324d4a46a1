"""Measurements of this machine that need networks and configs; `mml bench` prints them."""
