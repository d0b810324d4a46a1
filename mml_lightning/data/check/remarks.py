"""One thing that a check has to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mml_lightning.data.check.findings import Finding

LEVELS = ("stops", "falsifies", "note")


@dataclass(frozen=True)
class Remark:
    """Args:
    level: "stops", a run would not start or would end early; "falsifies", its numbers would not be what they seem;
        "note", runs cope with it.
    what: what was found, a few words.
    advice: what to do, or what runs do.
    examples: each video, group or class that it is about.
    """

    level: str
    what: str
    advice: str
    examples: Sequence[str]

    @property
    def order(self) -> int:
        return LEVELS.index(self.level)

    def some(self) -> list[Remark]:
        """Itself, if there is an example."""
        return [self] if self.examples else []

    def __str__(self) -> str:
        return f"{self.level}: {self.what}: {len(self.examples)}; {self.advice}; first {self.examples[0]}"


def remark(level: str, what: str, advice: str, examples: Sequence[str]) -> Remark:
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is none of {LEVELS}")
    return Remark(level, what, advice, tuple(examples))


def shown(finding: Finding) -> str:
    return f"{finding.split}/{finding.id}" + (f" ({finding.problem})" if finding.problem else "")


def all_shown(findings: Iterable[Finding]) -> list[str]:
    return [shown(finding) for finding in findings]
