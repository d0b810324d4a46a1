"""Words of a command line: what is kept of them, and how files stand in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

WEIGHTS = (".pt", ".pth", ".ckpt")


def swept_keys(given: Sequence[str]) -> str:
    """The keys that a sweep varies, as a directory is named after them: init.rgb+seed."""
    keys = []
    for argument in given:
        key, _, value = argument.partition("=")
        bare = re.sub(
            r"\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"", "", value
        )  # commas in lists and quotes separate nothing
        if "," in bare or re.match(r"(range|choice|glob|interval)\(", value):
            keys.append(re.sub(r"[^A-Za-z0-9_.-]", "_", key.lstrip("+")))
    return "+".join(keys)[:80]


def init_file(argument: str) -> str:
    """`init` is a group, so Hydra would look for an option named like the file or the peer (`ce:rgb_1`)."""
    key, _, value = argument.partition("=")
    is_file = "/" in value or ":" in value or value.strip("'\"").endswith(WEIGHTS)
    return f"init.all={value}" if key == "init" and is_file and "," not in value else argument
