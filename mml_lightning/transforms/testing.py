"""The fixed crops of validation and testing. Sizes are (width, height)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mml_lightning.transforms.boxes import Crop, Size, scaled_size
from mml_lightning.transforms.training import offset_grid

Rule = Literal["fixed", "tsm", "slowfast"]


@dataclass(frozen=True)
class TestGeometry:
    """Fixed crops of validation and testing; see :func:`test_crops`."""

    output: int = 224
    short_side: int = 256
    crops: int = 1
    rule: Rule = "fixed"
    antialias: bool = True

    def __post_init__(self) -> None:
        _check(self.output, self.short_side, self.crops, self.rule)

    def views(self, width: int, height: int) -> list[Crop]:
        """All crops of a frame of ``width`` x ``height``."""
        return test_crops(
            width,
            height,
            short_side=self.short_side,
            output=self.output,
            crops=self.crops,
            rule=self.rule,
            antialias=self.antialias,
        )


def test_crops(
    width: int,
    height: int,
    *,
    short_side: int,
    output: int,
    crops: int,
    rule: Rule = "fixed",
    antialias: bool = True,
) -> list[Crop]:
    """Crops of a frame whose shorter side is first brought to ``short_side`` (long side truncated to whole pixels).

    Args:
        crops: 1 centre; 3 both ends and centre; 5 corners and centre; 10 those five, each followed by its mirror image.
        rule: where the crops lie. ``tsm``: the published program, a single centre crop rounds half the slack to even,
            all others step by whole quarters of the slack; the 3 crops lie along the width even in a portrait frame,
            where they can coincide. ``fixed``: the same, but the 3 crops lie along the longer side. ``slowfast``: 1 or
            3 crops along the longer side, at 0, half the slack rounded up, and the whole slack; a single one lies in
            the centre (where PySlowFast takes the first for Charades).
        antialias: of the resize.

    Raises:
        ValueError: the crop does not fit, or ``crops`` is another number.
    """
    _check(output, short_side, crops, rule)
    frame = scaled_size(width, height, short_side, "code" if rule == "slowfast" else "fixed")
    places = _slowfast(frame, output, crops) if rule == "slowfast" else _tsm(frame, output, crops, rule == "tsm")
    flips = (False, True) if crops == 10 else (False,)
    return [
        Crop(
            x,
            y,
            output,
            output,
            reference=(width, height),
            output=(output, output),
            flip=flip,
            resize=None if min(width, height) == short_side else frame,
            antialias=antialias,
        )
        for x, y in places
        for flip in flips
    ]


def _tsm(frame: Size, output: int, crops: int, along_width: bool) -> list[Size]:
    width, height = frame
    grid = offset_grid(width, height, output, output, policy="code")
    corners, centre, left, right, bottom, top = grid[:4], grid[4], grid[5], grid[6], grid[7], grid[8]
    if crops == 1:
        return [(round((width - output) / 2), round((height - output) / 2))]
    if crops == 3:
        return [left, right, centre] if along_width or width >= height else [top, bottom, centre]
    return [*corners, centre]


def _slowfast(frame: Size, output: int, crops: int) -> list[Size]:
    slack_x, slack_y = frame[0] - output, frame[1] - output
    centre_x, centre_y = (slack_x + 1) // 2, (slack_y + 1) // 2
    if crops == 1:
        return [(centre_x, centre_y)]
    if frame[0] >= frame[1]:
        return [(x, centre_y) for x in (0, centre_x, slack_x)]
    return [(centre_x, y) for y in (0, centre_y, slack_y)]


def _check(output: int, short_side: int, crops: int, rule: str) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"crop_rule is {rule!r}: use one of {', '.join(get_args(Rule))}")
    allowed = (1, 3) if rule == "slowfast" else (1, 3, 5, 10)
    if crops not in allowed:
        of_rule = " with crop_rule slowfast" if rule == "slowfast" else ""
        raise ValueError(f"crops is {crops}: use {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}{of_rule}")
    if not 1 <= output <= short_side:
        raise ValueError(f"output {output} does not fit into short_side {short_side}: raise short_side or lower output")
