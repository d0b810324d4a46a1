"""The settings of a run: from the composed config to objects and checked values."""
