"""Windows cover a video without a gap, whatever its length."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.records.records import Record
from mml_lightning.data.records.windows import window_spans, windows
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.utils.errors import UserError

SECONDS = st.floats(0.05, 50, allow_nan=False)


@given(duration=st.floats(0.01, 500), window=SECONDS, share=st.floats(0.1, 1))
def test_every_moment_is_in_a_window_of_the_asked_length(duration: float, window: float, share: float) -> None:
    spans = window_spans(duration, window, window * share)
    assert spans[0][0] == 0 and spans[-1][1] == pytest.approx(duration, abs=2e-6)
    assert all(later[0] <= earlier[1] + 2e-6 for earlier, later in itertools.pairwise(spans))
    assert all(end - start == pytest.approx(min(window, duration), abs=3e-6) for start, end in spans)
    assert len(set(spans)) == len(spans) and spans == sorted(spans)


def test_what_fits_exactly_leaves_no_rest() -> None:
    assert window_spans(5, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert window_spans(2, 2, 1) == [(0, 2)]
    assert window_spans(1.5, 2, 1) == [(0, 1.5)]
    assert len(window_spans(0.3, 0.1, 0.1)) == 3  # 0.1 * 3 is not 0.3 in floats


def test_a_video_that_cannot_be_read_comes_whole() -> None:
    def look(record: Record) -> SimpleNamespace:
        if record.id == "bad":
            raise DecodeError("bad: no video")
        return SimpleNamespace(count=75, fps=25.0, times=None)

    records = [Record(name, {"frames": Path(name)}, {}) for name in ("good", "bad")]
    looked: list[int] = []
    found = list(windows(records, 2, 1, look, lambda: looked.append(1)))
    assert [(video, one.span) for video, one in found] == [("good", (0, 2)), ("good", (1, 3)), ("bad", None)]
    assert len({one.id for _, one in found}) == 3 and len(looked) == 2


@pytest.mark.parametrize("window, stride", [(0, 1), (-1, 1), (2, 0), (float("nan"), 1), (float("inf"), 1)])
def test_lengths_are_positive(window: float, stride: float) -> None:
    with pytest.raises(UserError, match="must be a positive number of seconds"):
        list(windows([], window, stride, lambda record: SimpleNamespace(), lambda: None))


def test_a_part_is_not_cut_again() -> None:
    part = Record("a", {"frames": Path("a")}, {}, (1.0, 2.0))
    with pytest.raises(UserError, match="a is a part of a video"):
        list(windows([part], 2, 1, lambda record: SimpleNamespace(), lambda: None))
