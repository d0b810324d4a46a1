"""Words of a command line: what is kept of them, and how files stand in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

MODALITIES = re.compile(r"modality=\[?([^\]]*)\]?")
OF_MODALITY = re.compile(r"[+~]*(?:modality|backbone)\.(?!(?:name|net)[.=])([\w-]+)[.=]")
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


def holding(words: Sequence[str], known: Collection[str], looked_at: Collection[str]) -> list[str]:
    """The words that hold in a run of some modalities: those about other ones do not.

    Args:
        known: all modalities that there are. looked_at: those of the run.
    """
    about = ((word, OF_MODALITY.match(word)) for word in words)
    return [word for word, of in about if of is None or of[1] not in known or of[1] in looked_at]


def modalities_in(words: Sequence[str]) -> list[str] | None:
    """Those that the last word about them lists; None where there is none."""
    found = [of[1] for word in words if (of := MODALITIES.fullmatch(word))]
    return [name.strip("'\" ") for name in found[-1].split(",")] if found else None


def init_file(argument: str) -> str:
    """`init` is a group, so Hydra would look for an option named like the file or the peer (`ce:rgb_1`)."""
    key, _, value = argument.partition("=")
    is_file = "/" in value or ":" in value or value.strip("'\"").endswith(WEIGHTS)
    return f"init.all={value}" if key == "init" and is_file and "," not in value else argument
