"""A network as one folder that works without this package: `mml export`."""
