"""What stands in the folder of an exported network for people: where it comes from, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mml_lightning import __version__
from mml_lightning.data.records.records import Head
from mml_lightning.engine.portable import program
from mml_lightning.engine.portable.network import FILES
from mml_lightning.engine.portable.preprocess import CLASSES, clip_shape
from mml_lightning.utils.plain_text import visible

CALLS = 10  # whose fastest is told
PROVENANCE = ("run", "stage", "setup", "backbone", "seed", "epochs", "steps", "fingerprint", "git_sha")


@dataclass(frozen=True)
class Card:
    """README.md of the folder.

    Args:
        entry: of the zoo. told: the content of `preprocess.json`. found: what was measured at export.
    """

    peer: str
    entry: Mapping[str, Any]
    told: Mapping[str, Any]
    found: Mapping[str, Any]
    heads: Mapping[str, Head]

    def __str__(self) -> str:
        parts = (self._about(), self._input(), self._checked(), self._origin())
        return "\n".join(line for part in parts for line in part) + "\n"

    def _about(self) -> Iterator[str]:
        counts = ", ".join(f"{len(head.classes)} classes ({name})" for name, head in self.heads.items())
        file, example = FILES[self.found["format"]], program.EXAMPLE[self.told["source"]]
        yield f"# {_text(self.peer)} of {_text(self.entry['provenance'].get('run', 'an unnamed run'))}\n"
        yield (
            f"A network of {_text(self.told['modality'])} for {counts}, exported by mml_lightning {__version__} as "
            f"`{file}` ({self.found['bytes'] / 1e6:.1f} MB). Try it: `python infer.py {example}`\n"
        )

    def _input(self) -> Iterator[str]:
        told = self.told
        frames = "1 frame" if told["window"] == 1 else f"{told['window']} frames"
        yield "## Input and output\n"
        yield f"- `clip`: {told['input']}; here [n, {', '.join(map(str, clip_shape(told)))}]."
        yield f"- {told['frames']} windows of {frames}, which are fixed; the number of clips is free."
        yield f"- Out come logits [n, classes] of {', '.join(self.heads)}; the names of the classes are in `{CLASSES}`."
        yield "- `preprocess.json` says how clips are cut from a video, `infer.py` does it.\n"
        if flow := told.get("flow"):
            yield (
                "A frame is here the optical flow from one frame to the next, x and y, in uint8: "
                f"-{flow['bound']:g} to {flow['bound']:g} pixels are 0 to 255. `infer.py` does not compute flow: it "
                f"takes a `.npy` file of uint8 [pairs, height, width, 2] of the whole video, by {flow['algorithm']} "
                f"({flow['preset']}; the rest is in `preprocess.json` under `flow`). Flow made in another way gives "
                "other scores. `mml flow`, `mml predict` and the training leave such files in their cache.\n"
            )

    def _checked(self) -> Iterator[str]:
        found = self.found
        yield "## Checked when it was exported\n"
        yield f"- Logits against mml_lightning on batches of 1, 2 and 5 real clips: {found['worst']:.1e} apart at most."
        reader = "from the same flow" if "flow" in self.told else "decoded by PyAV"
        yield (
            f"- `infer.py` against `mml predict` ({reader}) on {found['videos']} whole videos: "
            f"{found['worst_of_video']:.1e} apart at most, pixels by {found['worst_pixel']} of 255; the same five best "
            f"classes for {found['same_top5']}."
        )
        yield (
            f"- One clip on one thread of the exporting machine: {found['ms']:.1f} ms, as torch computes it there "
            f"{found['eager_ms']:.1f} ms (best of {CALLS}).\n"
        )
        if small := found.get("int8"):
            yield (
                f"`model_int8.onnx` ({small['bytes'] / 1e6:.1f} MB, `infer.py --int8`) has weights and activations of "
                f"8 bits, calibrated on {small['calibration']} training videos: {small['ms']:.1f} ms a clip.\n"
            )
            yield from (f"- {line}" for line in accuracy_lines(small))
            yield ""

    def _origin(self) -> Iterator[str]:
        provenance = self.entry["provenance"]
        yield "## Where it comes from\n"
        for key in PROVENANCE:
            if provenance.get(key) is not None:
                yield f"- {key}: {_text(provenance[key])}"
        yield f"- weights: {self.found['weights']}"
        for why in provenance.get("limited") or ():
            yield f"- training was cut short: {_text(why)}"
        yield "\n## Measured by its run\n"
        measured = list(_metrics(provenance.get("metrics") or {}))
        yield from measured or ["Nothing was measured."]
        yield (
            "\nThese numbers are of the network in its run, with the views of the run. What the videos of another "
            "place or time look like was not measured."
        )


def accuracy_lines(small: Mapping[str, Any]) -> Iterator[str]:
    """What 8 bits cost, for each split that was measured."""
    for split, one in small["accuracy"].items():
        yield (
            f"top-1 on {one['videos']} videos of {split}: {one['top1_int8']:.2f} in 8 bits, {one['top1']:.2f} without; "
            f"the same class for {one['same']:.1f} %"
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
