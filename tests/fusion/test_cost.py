"""Published costs: every row of AdaMML's tables that its own formula gives."""

from __future__ import annotations

from typing import Any

import pytest

from mml_lightning.fusion.cost import (
    PUBLISHED_LSTM,
    PUBLISHED_MAIN,
    TRUE_POLICY,
    gflops,
    published_gflops,
    stft_operations,
)

S = 10
PROXY = {"rgb": "rgb", "flow": "rgbdiff"}


@pytest.mark.parametrize(
    ("rates", "looks_at", "printed"),
    [
        ({"rgb": 1.0}, None, 141.36),
        ({"flow": 1.0}, None, 163.39),
        ({"audio": 1.0}, None, 3.82),
        ({"rgb": 1.0, "audio": 1.0}, None, 145.17),
        ({"rgb": 1.0, "flow": 1.0}, None, 304.75),
        ({"rgb": 1.0, "flow": 1.0, "audio": 1.0}, None, 308.56),
        ({"rgb": 0.5604, "flow": 0.3639}, {"rgb": "rgb", "flow": "flow"}, 151.55),
        ({"rgb": 0.4461, "flow": 0.3740}, PROXY, 137.04),
        ({"rgb": 0.5613, "flow": 0.2031, "audio": 0.9749}, {m: m for m in ("rgb", "flow", "audio")}, 132.94),
        ({"rgb": 0.5506, "flow": 0.2682, "audio": 0.9512}, {**PROXY, "audio": "audio"}, 141.97),
        (
            {"rgb": 0.4647, "audio": 0.9415},
            {"rgb": "rgb", "audio": "audio"},
            76.88,
        ),  # printed 76.45
        ({"rgb": 0.7625, "audio": 0.5635}, {"rgb": "rgb", "audio": "audio"}, 117.53),  # printed 94.01
    ],
)
def test_the_formula_gives_published_rows(rates: dict[str, float], looks_at: Any, printed: float) -> None:
    assert published_gflops(S, rates, looks_at) == pytest.approx(printed, abs=0.015)


def test_the_true_cost_of_differences_is_four_and_a_half_less() -> None:
    rates = {"rgb": 0.4461, "flow": 0.3740}
    true = gflops(S, rates, PUBLISHED_MAIN, {"rgb": TRUE_POLICY["rgb"], "flow": TRUE_POLICY["rgbdiff"]}, PUBLISHED_LSTM)
    assert true == pytest.approx(132.59, abs=0.01)


def test_what_is_always_skipped_costs_nothing_but_the_policy() -> None:
    assert gflops(S, {"rgb": 0.0}, PUBLISHED_MAIN) == 0.0
    assert gflops(2, {"rgb": 0.0}, {"rgb": 5e9}, {"rgb": 1e9}, 1e9) == 4.0


def test_what_is_not_published_is_refused() -> None:
    with pytest.raises(ValueError, match="no cost of boxes is published"):
        published_gflops(S, {"boxes": 1.0})


def test_a_spectrogram_costs_next_to_nothing_beside_its_network() -> None:
    assert stft_operations(511, 256) == round(256 * (255.5 * 8.99717948 + 512))
    assert stft_operations(511, 256) < 0.002 * PUBLISHED_MAIN["audio"]
    assert stft_operations(512, 10, mels=4) == 10 * (256 * 9 + 2 * 257 + 4 * 257)
