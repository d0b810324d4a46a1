"""Random command lines."""

from __future__ import annotations

import random
from pathlib import Path

from mml_lightning.cli import config_errors

# what would only take long, or write outside of the test
LEFT_OUT = ("data.root", "data.videos", "paths", "hydra", "resume", "ckpt", "experiment", "pipeline", "catalogue")
LEFT_OUT += ("tables", "logger", "init.file", "seeds", "step.compile", "trainer.num_threads")
PLAIN = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "64",
        "0.5",
        "-0.5",
        "1e-3",
        "1e400",
        "nan",
        "inf",
        "1000000000000",
        "9223372036854775808",
    ),
    *(
        "true",
        "false",
        "null",
        "none",
        "auto",
        "rgb",
        "flow",
        "x",
        "''",
        '""',
        "a b",
        "ä",
        "'a b'",
        "../x",
        "~/x",
        "a.b.c",
    ),
    *("[]", "{}", "[1,2]", "[rgb]", "[rgb,flow]", "{a:1}", "{name:x}", "[[1]]", "[null]", "{a:{b:[1]}}"),
    *(
        "${name}",
        "${nothing}",
        "${oc.env:NO_SUCH}",
        "${seed}",
        "${",
        "$",
        "\\",
        "1,2",
        "range(3)",
        "choice(1,2)",
        "]",
        "[",
        "=",
    ),
)


def groups(conf: Path) -> dict[str, list[str]]:
    found = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in conf.iterdir() if path.is_dir()}
    return {name: options for name, options in found.items() if name not in LEFT_OUT}


def keys(conf: Path) -> list[str]:
    known = sorted(set(config_errors.known_keys(conf)))
    return [key for key in known if not key.startswith(LEFT_OUT) and "@" not in key and "/" not in key]


LIGHT = {"backbone": ("tiny", "i3d_tiny"), "setup": ("demo",), "data": (), "modality": ("rgb", "flow", "rgbdiff")}


def words(rng: random.Random, conf: Path, known: list[str], options: dict[str, list[str]]) -> list[str]:
    """One to three overrides: groups, keys, keys that nearly exist, things that are no override at all."""
    made = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.randrange(10)
        if kind < 3:
            group = rng.choice(sorted(options))
            named = LIGHT.get(group, options[group]) or ("nothing",)
            made.append(f"{group}={rng.choice([*named, rng.choice(PLAIN)])}")
            continue
        key = rng.choice(known)
        if kind == 3:
            key = key[:-1] + rng.choice("xyz.") if rng.random() < 0.5 else key + ".x"
        start = rng.choice(("", "", "", "", "", "+", "++", "~"))
        equals = rng.choice(("=", "=", "=", "=", "=", "", "==", ":"))
        made.append(f"{start}{key}{equals}{rng.choice(PLAIN)}")
    if rng.random() < 0.02:
        made.append(rng.choice(("", "-m", "--unknown", "=", "a=b=c", "@", "'", "modality=[rgb", "\n", "ä=1")))
    return made
