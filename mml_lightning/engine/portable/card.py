"""What stands in the folder of an exported network for people: where it comes from, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mml_lightning.data.records.records import Head
from mml_lightning.engine.portable.network import FILES
from mml_lightning.engine.portable.preprocess import clip_shape
from mml_lightning.utils.plain_text import visible

CALLS = 10  # whose fastest is told
PROVENANCE = ("run", "stage", "setup", "backbone", "seed", "epochs", "steps", "fingerprint", "git_sha")


def model_card(
    peer: str,
    entry: Mapping[str, Any],
    told: Mapping[str, Any],
    found: Mapping[str, Any],
    heads: Mapping[str, Head],
    version: str,
    classes: str,
) -> str:
    """README.md of the folder.

    Args:
        entry: of the zoo. told: the content of `preprocess.json`. found: what was measured at export.
        classes: name of the file with the classes.
    """
    return "\n".join(_lines(peer, entry, told, found, heads, version, classes)) + "\n"


def _lines(
    peer: str,
    entry: Mapping[str, Any],
    told: Mapping[str, Any],
    found: Mapping[str, Any],
    heads: Mapping[str, Head],
    version: str,
    classes: str,
) -> Iterator[str]:
    provenance = entry["provenance"]
    yield f"# {_text(peer)} of {_text(provenance.get('run', 'an unnamed run'))}\n"
    counts = ", ".join(f"{len(head.classes)} classes ({name})" for name, head in heads.items())
    yield (
        f"A network of {_text(told['modality'])} for {counts}, exported by mml_lightning {version} as "
        f"`{FILES[found['format']]}` ({found['bytes'] / 1e6:.1f} MB). Try it: `python infer.py clip.mp4`\n"
    )
    frames = "1 frame" if told["window"] == 1 else f"{told['window']} frames"
    yield "## Input and output\n"
    yield f"- `clip`: {told['input']}; here [n, {', '.join(map(str, clip_shape(told)))}]."
    yield f"- {told['frames']} windows of {frames}, which are fixed; the number of clips is free."
    yield f"- Out come logits [n, classes] of {', '.join(heads)}; the names of the classes are in `{classes}`."
    yield "- `preprocess.json` says how clips are cut from a video, `infer.py` does it.\n"
    yield "## Checked when it was exported\n"
    yield f"- Logits against mml_lightning on batches of 1, 2 and 5 real clips: {found['worst']:.1e} apart at most."
    yield (
        f"- `infer.py` against `mml predict` (decoded by PyAV) on {found['videos']} videos: "
        f"{found['worst_of_video']:.1e} apart at most, pixels by {found['worst_pixel']} of 255; the same five best "
        f"classes for {found['same_top5']}."
    )
    yield (
        f"- One clip on one thread of the exporting machine: {found['ms']:.1f} ms, as torch computes it there "
        f"{found['eager_ms']:.1f} ms (best of {CALLS}).\n"
    )
    if small := found.get("int8"):
        yield (
            f"`model_int8.onnx` ({small['bytes'] / 1e6:.1f} MB, `infer.py --int8`) has weights and activations of 8 "
            f"bits, calibrated on {small['calibration']} training videos: {small['ms']:.1f} ms a clip. "
            f"On {small['videos']} videos of val its top-1 is {small['top1_int8']:.2f}, that of `model.onnx` "
            f"{small['top1']:.2f}; for {small['same']:.1f} % both say the same.\n"
        )
    yield "## Where it comes from\n"
    for key in PROVENANCE:
        if provenance.get(key) is not None:
            yield f"- {key}: {_text(provenance[key])}"
    yield f"- weights: {found['weights']}"
    for why in provenance.get("limited") or ():
        yield f"- training was cut short: {_text(why)}"
    yield "\n## Measured by its run\n"
    measured = list(_metrics(provenance.get("metrics") or {}))
    yield from measured or ["Nothing was measured."]
    yield (
        "\nThese numbers are of the network in its run, with the views of the run. What the videos of another place or "
        "time look like was not measured."
    )


def _metrics(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _metrics(value, f"{prefix}{_text(key)}/")
        elif isinstance(value, int | float):
            yield f"- {prefix}{_text(key)}: {value:.4g}"


def _text(value: object) -> str:
    """What a file says, on one line and without effect on Markdown."""
    plain = " ".join(visible(str(value)).split())[:200]
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in plain)
