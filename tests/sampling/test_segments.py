"""Segments of a video: the published placement, and ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.sampling import test_segments as place
from mml_lightning.sampling import train_segments as draw

RGB = {"rgb": 1}
N, STRIDE = 8, 4


@pytest.mark.parametrize("policy", ["code", "paper"])
def test_published_test_starts(policy: str) -> None:
    found = place({"rgb": 300}, RGB, num_segments=N, clips=10, stride=STRIDE, policy=policy)["rgb"]  # type: ignore[arg-type]
    assert found[:, 0].tolist() == [0, 29, 59, 89, 119, 148, 178, 208, 238, 268]
    assert (np.diff(found) == STRIDE).all()
    one = place({"rgb": 300}, RGB, num_segments=N, clips=1, stride=STRIDE, policy=policy)["rgb"]  # type: ignore[arg-type]
    assert one[0, 0] == 0, "the beginning, not the middle"


def test_published_draws() -> None:
    """L = 300 - 32 = 268, in five parts of 53: the last places of the video are never drawn."""
    rng = np.random.default_rng(0)
    drawn = [
        draw({"rgb": 300}, RGB, num_segments=N, clips=5, stride=STRIDE, policy="code", rng=rng) for _ in range(999)
    ]
    starts = np.array([one["rgb"][:, 0] for one in drawn])
    assert starts.min(0).tolist() == [0, 53, 106, 159, 212] and starts.max(0).tolist() == [52, 105, 158, 211, 264]


@pytest.mark.parametrize("count", [1, 5, 20, 32])
def test_published_short_videos_wrap(count: int) -> None:
    drawn = draw(
        {"rgb": count}, RGB, num_segments=N, clips=5, stride=STRIDE, policy="code", rng=np.random.default_rng(0)
    )
    assert drawn["rgb"].tolist() == [[n * STRIDE % count for n in range(N)]] * 5
    placed = place({"rgb": count}, RGB, num_segments=N, clips=10, stride=STRIDE, policy="code")
    assert placed["rgb"][:, 0].tolist() == [0] * 10


def test_published_modalities_share_their_starts() -> None:
    counts, windows = {"rgb": 100, "flow": 99}, {"rgb": 1, "flow": 5}
    drawn = draw(counts, windows, num_segments=N, clips=5, policy="code", rng=np.random.default_rng(3))
    assert np.array_equal(drawn["rgb"], drawn["flow"]) and drawn["rgb"].max() < 95


@given(st.integers(1, 400), st.integers(1, 10), st.integers(1, 8), st.integers(1, 9), st.integers(0, 99))
def test_ours_stay_inside_and_do_not_depend_on_company(count: int, n: int, stride: int, clips: int, seed: int) -> None:
    def drawn(windows: dict[str, int]) -> dict[str, np.ndarray]:
        counts = {name: count + 1 - (name == "flow") for name in windows}
        rng = np.random.default_rng(seed)
        return draw(counts, windows, num_segments=n, clips=clips, stride=stride, policy="fixed", rng=rng)

    both, alone = drawn({"rgb": 1, "flow": 5}), drawn({"flow": 5})
    assert np.array_equal(both["flow"], alone["flow"])
    for name, last in (("rgb", count), ("flow", max(0, count - 5))):
        assert both[name].shape == (clips, n)
        assert both[name].min() >= 0 and both[name].max() <= last
        assert (np.diff(both[name]) >= 0).all() and (np.diff(both[name][:, 0]) >= 0).all()


def test_ours_reach_every_start() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw({"rgb": 60}, RGB, num_segments=N, clips=5, stride=STRIDE, rng=rng)["rgb"][:, 0] for _ in range(500)]
    assert set(np.concatenate(drawn).tolist()) == set(range(60 - STRIDE * (N - 1)))
    placed = place({"rgb": 60}, RGB, num_segments=N, clips=10, stride=STRIDE)["rgb"]
    assert placed[0, 0] == 0 and placed[-1, -1] == 59


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="clips is 0"):
        place({"rgb": 60}, RGB, num_segments=N, clips=0)
    with pytest.raises(ValueError, match="clips is 0"):
        draw({"rgb": 60}, RGB, num_segments=N, clips=0, rng=np.random.default_rng(0))
