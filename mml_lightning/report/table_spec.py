"""Tables as yaml declares them: which networks stand where, and which runs they need.

A network is `run/peer`, a run of the catalogue with one of its peers; a cell is a network, or several as an ensemble:
`run/peer + run/peer`. Labels may hold {base}, the first weights of the setup.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mml_lightning.utils.errors import UserError

BASES = {"imagenet": "ImageNet", "kinetics": "Kinetics", "scratch": "scratch"}
PAPER_BASE = "ImageNet"


@dataclass(frozen=True)
class Network:
    """A peer of a run of the catalogue."""

    run: str
    peer: str

    @staticmethod
    def parse(text: str) -> Network:
        """Raises:
        UserError: it is not `run/peer`.
        """
        run, slash, peer = text.strip().partition("/")
        if not (run and slash and peer):
            raise UserError(f"{text!r} in a table names no network: write run/peer, such as ce_rgb/rgb")
        return Network(run, peer)

    def __str__(self) -> str:
        return f"{self.run}/{self.peer}"


@dataclass(frozen=True)
class Place:
    """One cell.

    Args:
        networks: one, or the members of an ensemble; none for an empty cell.
        paper: row and column of the number that the paper prints there.
        views: how it is measured; None: as the run was.
    """

    networks: tuple[Network, ...]
    paper: tuple[str, str]
    views: Mapping[str, Any] | None = None
    setups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A conclusion of the paper: one network is better than another; or, where `expect` is nothing, no better."""

    say: str
    better: Network
    than: Network
    expect: str = "better"


@dataclass(frozen=True)
class Layout:
    """One table.

    Args:
        columns, rows: labels; `places` by row.
        ranks: {group: {label: network}} of a table of rank sums: of all choices of one network per group.
        paper: number of the table, setups on which the paper measured it, and its word for their first weights.
        quote: rows of other systems that the paper quotes are shown too.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[str]
    places: list[list[Place]]
    claims: list[Claim] = field(default_factory=list)
    ranks: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)
    paper: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def networks(self) -> Iterator[Network]:
        """All that it refers to, with repetitions."""
        for place in itertools.chain.from_iterable(self.places):
            yield from place.networks
        for claim in self.claims:
            yield from (claim.better, claim.than)
        for group in self.ranks.values():
            for place in group.values():
                yield from place.networks

    def runs(self) -> list[str]:
        """The runs of the catalogue that it needs."""
        return list(dict.fromkeys(network.run for network in self.networks()))

    def measurements(self) -> list[tuple[Network, Mapping[str, Any]]]:
        """Networks that are measured otherwise than their runs were, with the views."""
        found = {}
        for place in itertools.chain.from_iterable(self.places):
            if place.views is not None:
                for network in place.networks:
                    found[network, views_name(place.views)] = place.views
        return [(network, views) for (network, _), views in found.items()]


def views_name(views: Mapping[str, Any]) -> str:
    """dense1_uniform2_full"""
    parts = [f"{kind}{views[kind]}" for kind in ("dense", "uniform", "strided", "segments") if views.get(kind)]
    crops = [f"crops{views['crops']}"] if views.get("crops", 1) != 1 else []
    return "_".join([*parts, *crops, *(["full"] if views.get("full_resolution") else [])])


def base_word(base: str) -> str:
    """How a label calls the first weights of a setup."""
    return BASES.get(base, base)


def layout(name: str, declared: Mapping[str, Any], base: str) -> Layout:
    """A declared table; `base` is `init.base` of the setup.

    Raises:
        UserError: an unknown field, or a row without a cell for each column.
    """
    known = ("title", "columns", "rows", "claims", "ranks", "paper", "notes", "across", "down")
    unknown = [key for key in declared if key not in known]
    if unknown:
        raise UserError(f"table {name}: unknown field {unknown[0]}; fields are {', '.join(known)}")
    paper = dict(declared.get("paper") or {})
    words = {"base": base_word(base)}
    printed = {"base": paper.get("base", PAPER_BASE)}
    if "across" in declared:
        columns, lines = _pairs(declared)
    else:
        columns, lines = list(declared.get("columns") or ()), dict(declared.get("rows") or {})
    places = [_row(name, label, line, columns, printed) for label, line in lines.items()]
    claims = [
        Claim(
            str(c["say"]).format(**words),
            Network.parse(c["better"]),
            Network.parse(c["than"]),
            c.get("expect", "better"),
        )
        for c in declared.get("claims") or ()
    ]
    ranks = {
        group: {
            label.format(**words): _row(name, label, [text], columns, printed)[0] for label, text in members.items()
        }
        for group, members in (declared.get("ranks") or {}).items()
    }
    return Layout(
        name,
        str(declared.get("title", name)).format(**words),
        [column.format(**words) for column in columns],
        [label.format(**words) for label in lines],
        places,
        claims,
        ranks,
        paper,
        tuple(declared.get("notes") or ()),
    )


def _pairs(declared: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Every network down with every one across, as ensembles."""
    across, down = declared["across"], declared["down"]
    return list(across), {label: [f"{one} + {other}" for other in across.values()] for label, one in down.items()}


def _row(name: str, label: str, line: Any, columns: Sequence[str], printed: Mapping[str, str]) -> list[Place]:
    fields = line if isinstance(line, Mapping) else {"cells": line}
    cells = list(fields["cells"])
    if len(cells) != len(columns):
        raise UserError(f"table {name}, row {label!r}: {len(cells)} cells for {len(columns)} columns")
    row = str(fields.get("paper", label)).format(**printed)
    views, setups = fields.get("views"), tuple(fields.get("setups") or ())
    return [
        Place(
            tuple(map(Network.parse, text.split("+"))) if text else (), (row, column.format(**printed)), views, setups
        )
        for text, column in zip(cells, columns, strict=True)
    ]
