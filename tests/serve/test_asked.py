"""The parameters of a request."""

from __future__ import annotations

import pytest

from mml_lightning.serve.asked import Asked, Limits, Refused, asked


@pytest.mark.parametrize(
    "query, expected",
    [
        ({}, Asked()),
        (
            {"name": ["a b.mp4"], "topk": ["3"], "peer": ["rgb,flow"]},
            Asked(name="a b.mp4", topk=3, peers=("rgb", "flow")),
        ),
        ({"window": ["auto"], "pictures": ["1"]}, Asked(window="auto", pictures=True)),
        ({"window": ["2"], "stride": ["0.5"]}, Asked(window=2.0, stride=0.5)),
        ({"video": ["12"], "class": ["a, b"]}, Asked(video=12, of_class="a, b")),
        ({"name": ["\x1b[2J" + "x" * 999]}, Asked(name=("\\x1b[2J" + "x" * 999)[:200])),
    ],
)
def test_what_is_typed_is_taken(query: dict[str, list[str]], expected: Asked) -> None:
    assert asked(query) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "١", "9" * 11, "0x1", "1 "])
def test_whole_numbers_are_plain(text: str) -> None:
    with pytest.raises(Refused, match="must be a whole number"):
        asked({"video": [text]})


def test_megabytes_are_those_of_a_file_manager() -> None:
    assert Limits(1.5, 1, 1, 1).bytes == 3 * 2**19
