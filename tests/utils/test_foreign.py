"""JSON and YAML of somebody else: plain values, or one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.utils.foreign import Foreign, parse_json, read_json, read_yaml
from mml_lightning.utils.plain_text import visible

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(value: object) -> None:
    import json

    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text, told",
    [
        ("[" * 10**6, "is nested more than 64 levels deep"),
        ("[" * 10**6 + "]" * 10**6, "is nested more than 64 levels deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "is nested more than 64 levels deep"),
        ("9" * 10**6, "a number of 1000000 digits"),
        ('{"a": 1, "a": 2}', "its key 'a' appears twice"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b'"\x80"', "codec can't decode"),
    ],
)
def test_what_is_refused(text: str | bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(Foreign, match=told) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    file = tmp_path / "result.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Foreign, match=told):
        read_json(file)


def test_what_never_ends_is_not_read() -> None:
    with pytest.raises(OSError):
        read_json(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text, told",
    [
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("[" * 300 + "]" * 300, "is nested more than 64 levels deep"),
        ("a: b: c", "mapping values are not allowed here"),
    ],
)
def test_yaml_is_plain(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(Foreign, match=told) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
    (tmp_path / "a.yaml").write_text("- a=1\n- b: [2, null]\n")
    assert read_yaml(tmp_path / "a.yaml") == ["a=1", {"b": [2, None]}]


def test_text_can_t_steer_a_terminal() -> None:
    assert visible("a\tb\nä 😀") == "a\tb\nä 😀"
    assert visible("\x1b]0;x\x07\x9b\u202e\r\0") == "\\x1b]0;x\\x07\\x9b\\u202e\\r\\x00"
