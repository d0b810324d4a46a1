"""Heat that is laid over a picture."""

from __future__ import annotations

import numpy as np

from mml_lightning.serve.pictures import heat_pictures


def test_heat_is_clear_where_nothing_is() -> None:
    heat = heat_pictures(np.array([[[0.0, 0.5, 1.0]]]))
    assert heat.shape == (1, 1, 3, 4) and heat[0, 0, :, 3].tolist() == [0, 127, 255]
