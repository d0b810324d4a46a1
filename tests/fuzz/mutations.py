"""Damage: of text, of bytes and of nested values, by a given generator of random numbers."""

from __future__ import annotations

import random
from typing import Any

import torch

WORDS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "7",
        "1e9",
        "nan",
        "inf",
        "-0.0",
        "0x10",
        "1_000",
        "99999999999999999999",
        "true",
        "null",
    ),
    *(
        "none",
        "rgb",
        "flow",
        "audio",
        "train",
        "val",
        "label",
        "../x",
        "/",
        ".",
        "~",
        "a" * 300,
        "ä€",
        "\u202e",
        "\ufeff",
    ),
    *(
        "\0",
        "\t",
        '"',
        "'",
        ",",
        ";",
        "|",
        "{",
        "}",
        "[",
        "]",
        "{0}",
        "%s",
        "$HOME",
        "${name}",
        "c000",
        "c999 1 2",
        "\\",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 10**12, 2**63, 1.5, float("nan"), float("inf"), "", "rgb", "label", "x" * 300),
    *([], {}, [1], ["rgb"], {"rgb": 1}, {"name": "rgb"}, (1, 2)),
)


def text(rng: random.Random, content: str) -> str:
    """Lines and cells moved, cut, doubled or replaced; at times no text is left."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        lines = content.split("\n")
        at = rng.randrange(len(lines))
        what = rng.randrange(9)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif what == 2:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        elif what == 3:
            lines[at] = rng.choice(WORDS)
        elif what == 4:
            content = content[: rng.randrange(len(content) + 1)]
            continue
        elif what == 5:
            place = rng.randrange(len(content) + 1)
            content = content[:place] + rng.choice(WORDS) + content[place:]
            continue
        else:
            mark = rng.choice((",", " ", ";", '"'))
            cells = lines[at].split(mark)
            cells[rng.randrange(len(cells))] = rng.choice(WORDS)
            lines[at] = mark.join(cells)
        content = "\n".join(lines)
    return content


def encoded(rng: random.Random, content: str) -> bytes:
    """As UTF-8, seldom as something else."""
    kind = rng.randrange(20)
    if kind == 0:
        return content.encode("utf-16")
    if kind == 1:
        return data(rng, content.encode())
    return content.encode("utf-8", "surrogatepass")


def data(rng: random.Random, content: bytes) -> bytes:
    """Bytes turned, cut, moved or blown up."""
    what = rng.randrange(6)
    at = rng.randrange(len(content) + 1)
    if what == 0:
        return content[:at]
    if what == 1:
        return content[:at] + rng.randbytes(rng.choice((1, 16, 1000))) + content[at:]
    if what == 2:
        return rng.randbytes(rng.choice((0, 1, 100)))
    if what == 3:
        return content[at:]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def value(rng: random.Random, content: Any) -> Any:
    """A nested value with something in it replaced, lost or renamed."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        changed = dict(content)
        key = rng.choice(list(changed))
        what = rng.randrange(6)
        if what == 0:
            del changed[key]
        elif what == 1:
            changed[rng.choice(("", "x", "rgb", 3))] = changed.pop(key)
        else:
            changed[key] = value(rng, changed[key])
        return changed
    if isinstance(content, list) and content and rng.random() < 0.7:
        changed_list = list(content)
        at = rng.randrange(len(changed_list))
        changed_list[at] = value(rng, changed_list[at])
        return changed_list
    if isinstance(content, torch.Tensor) and content.ndim and rng.random() < 0.7:
        return rng.choice(
            (content[..., :1], content.double(), content.flatten(), content * float("nan"), content[None])
        )
    return rng.choice(VALUES)
