"""The earlier name of `mml_lightning.data.records.readers`, for code of users until the next major version."""

from mml_lightning.data.records.readers import *  # noqa: F403
