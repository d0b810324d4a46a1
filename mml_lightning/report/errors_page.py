"""The page of a run's errors: one file that needs nothing else, its pictures inside of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from markupsafe import Markup, escape

from mml_lightning.evaluation.errors import Case, Comparison, Contrast
from mml_lightning.report import plots
from mml_lightning.report.confusion import CLASSES, matrix, worst_classes
from mml_lightning.report.errors import Findings, class_rows
from mml_lightning.report.html import SortableTable, Td
from mml_lightning.utils.templates import render

PAIRS = 100  # rows of the table of confused classes; the csv has all
NAMED = 8  # videos named in such a row
SHOWN = 8  # classes at each end of the changes per class
LEAST_HEIGHT = 64  # pixels of a strip on the page: small frames are enlarged
RULE = "Predicted are the best classes of a video, as many as it has labels."


class Strip(Protocol):
    """Frames of one modality side by side, as a JPEG."""

    @property
    def modality(self) -> str: ...
    @property
    def jpeg(self) -> bytes: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass
class Section:
    """A part of the page: lines, a picture, a table, groups of cards. `groups` are {title, open, cards}."""

    name: str
    notes: Sequence[str] = ()
    picture: Markup | None = None
    table: SortableTable | None = None
    groups: list[dict[str, Any]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.name.lower().replace(" ", "-")


class ErrorsPage:
    """Args:
    strips: pictures by video id.
    whole: the matrix has all classes, however many.
    """

    def __init__(self, found: Findings, strips: Mapping[str, Sequence[Strip]], whole: bool = False) -> None:
        self.found, self.whole = found, whole
        self.names, self.several = found.judged.classes, found.judged.several
        self.strips: dict[str, list[dict[str, Any]]] = {}
        self.files: list[dict[str, str]] = []
        self.anchors: dict[str, str] = {}
        for video, own in strips.items():
            self.strips[video] = [self._strip(video, strip) for strip in own]

    def html(self, title: str, told: Sequence[str]) -> str:
        """Args:
        told: lines under the title.
        """
        changes = self._changes() if self.found.against is not None else None
        cards = [self._mistakes(), self._suspects(), self._peers(), changes]  # before what links to them
        every = [self._outputs(), self._matrix(), *cards, self._confused(), self._classes()]
        sections = [part for part in every if part is not None]
        return str(render("errors.html", title=title, told=told, sections=sections, strips=self.files))

    def _strip(self, video: str, strip: Strip) -> dict[str, Any]:
        css = f"p{len(self.files)}"
        self.files.append({"css": css, "data": base64.b64encode(strip.jpeg).decode()})
        scale = max(1.0, LEAST_HEIGHT / strip.height)
        size = {"width": round(strip.width * scale), "height": round(strip.height * scale)}
        return {"css": css, "label": f"{strip.modality} of {video}", **size}

    # Tables -------------------------------------------------------------------------------------------------------

    def _outputs(self) -> Section:
        found = self.found
        columns = list(dict.fromkeys(key for values in found.metrics.values() for key in values))
        rows = []
        for name, judged in found.outputs.items():
            values = [found.metrics[name].get(key) for key in columns]
            cells = [
                Td(v, "" if v is None else f"{v:.{3 if key in ('loss', 'ece') else 2}f}")
                for key, v in zip(columns, values, strict=True)
            ]
            count = [Td(len(judged.ids), str(len(judged.ids))), Td(judged.wrong, str(judged.wrong))]
            shown = Markup("<b>{}</b>").format(name) if name == found.name else name
            rows.append([Td(name, shown), *count, *cells])
        wrong = "with a missed label" if self.several else "wrong"
        notes = [f"The page is about {found.name}; --peer chooses another output."] if len(rows) > 1 else []
        return Section("Outputs", notes, table=SortableTable(["output", "videos", wrong, *columns], rows))

    def _matrix(self) -> Section:
        shown = worst_classes(self.found.counts, None if self.whole else CLASSES)
        linked = {(i, j) for i, j, *_ in self.found.confusions[:PAIRS]}
        notes = [
            "Rows are labels, columns predictions; the stronger the colour, the larger the share of the label's "
            "videos. A cell leads to its videos, one on the diagonal to its class."
        ]
        if self.several:
            notes = [
                f"{RULE} It counts in the row of each of its labels and the column of each of its predictions, so that "
                "off the diagonal both may be correct.",
                *notes,
            ]
        if len(shown) < len(self.names):
            notes.append(
                f"{len(shown)} of {len(self.names)} classes, those with the most mistakes; --confusion shows all."
            )
        picture = matrix(self.found.counts, self.names, shown, linked)
        return Section("Co-occurrence" if self.several else "Confusion", notes, picture)

    def _confused(self) -> Section | None:
        found = self.found.confusions
        if not found:
            return None
        rows = []
        for i, j, count, ids in found[:PAIRS]:
            share = 100 * count / int(self.found.judged.given[:, i].sum())
            first = Markup('<a id="pair{}-{}"></a>{}').format(i, j, self._class(i))
            rows.append(
                [
                    Td(self.names[i], first),
                    Td(self.names[j], self._class(j)),
                    Td(count, str(count)),
                    Td(share, f"{share:.1f}"),
                    Td(ids[0], self._named(ids)),
                ]
            )
        notes = [f"{PAIRS} of {len(found)} pairs"] if len(found) > PAIRS else []
        if self.several:
            notes.insert(0, "A missed label, and a class predicted for the same video that is none of its labels.")
        heads = ["label", "predicted instead", "videos", "% of the label", "most probable first"]
        return Section("Confused classes", notes, table=SortableTable(heads, rows))

    def _named(self, ids: Sequence[str]) -> Markup:
        shown = [
            Markup('<a href="#{}">{}</a>').format(self.anchors[video], video)
            if video in self.anchors
            else escape(video)
            for video in ids[:NAMED]
        ]
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        return Markup(", ").join(shown) + more

    def _classes(self) -> Section:
        rows = []
        most: dict[int, tuple[int, int]] = {}
        for i, j, count, _ in self.found.confusions:
            most.setdefault(i, (j, count))
        table = class_rows(self.found)
        for k, row in enumerate(table):
            cells = [Td(self.names[k], Markup('<a id="class{}"></a>{}').format(k, self.names[k]))]
            for value in list(row.values())[1:]:
                text = "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
                cells.append(Td(value, text))
            instead, link = "", Markup()
            if k in most:
                j, count = most[k]
                instead = self.names[j]
                link = Markup('<a href="#pair{}-{}">{} ({})</a>').format(k, j, instead, count)
            rows.append([*cells, Td(instead, link)])
        heads = [*table[0], "most often instead"]
        return Section("Classes", ["Percent; click a header to sort."], table=SortableTable(heads, rows))

    # Cards --------------------------------------------------------------------------------------------------------

    def _mistakes(self) -> Section:
        found = self.found
        groups = [self._group(what, [self._case(case) for case in cases]) for what, cases in found.mistakes.items()]
        notes = ["The most confident first."] if any(found.mistakes.values()) else ["None."]
        return Section("Mistakes", notes, groups=groups)

    def _suspects(self) -> Section:
        found = self.found
        groups = [
            self._group(what, [self._case(case, "suggested") for case in cases])
            for what, cases in found.shown_suspects.items()
        ]
        videos = len({case.video for case in found.suspects})
        rule = (
            "each class against all others, with two levels (Thyagarajan et al. 2022)"
            if self.several
            else "the most probable of the classes whose probability reaches their mean over the videos labelled with "
            "them is not the label; ranked by how much more probable it is"
        )
        return Section(
            "Suspect labels",
            [
                f"{videos} of {len(found.judged.ids)} videos by confident learning (Northcutt et al. 2021): {rule}.",
                "A suspicion is no proof: the weaker the network, the more of these labels are right.",
            ],
            groups=groups,
        )

    def _peers(self) -> Section | None:
        found = self.found
        if not found.pairs:
            return None
        what = "labels" if self.several else "videos"
        heads = ["first", "second", "videos", "both correct", "only the first", "only the second", "neither", "p"]
        rows = [
            [Td(pair.first, pair.first), Td(pair.second, pair.second)]
            + [Td(n, str(n)) for n in (pair.videos, pair.both, pair.only_first, pair.only_second, pair.neither)]
            + [Td(pair.p, _p(pair.p))]
            for pair in found.pairs
        ]
        groups = [group for pair in found.peers for group in self._contrasts(pair)]
        notes = [f"Counts of {what}; p: {_test(self.several)}."]
        return Section("Networks", notes, table=SortableTable(heads, rows), groups=groups)

    def _changes(self) -> Section:
        change = self.found.against
        assert change is not None
        what = "labels" if self.several else "videos"
        moves = f"{change.only_second} {what} have become correct, {change.only_first} have become wrong"
        notes = [
            f"{change.second} against {change.first} on {change.videos} videos that both have: {moves}, {change.both} "
            f"are correct in both, {change.neither} in neither.",
            f"p = {_p(change.p)}: {_test(self.several)}.",
            *self.found.notes,
        ]
        moved = [one for one in change.gained if one[1]]
        shown = moved if len(moved) <= 2 * SHOWN else [*moved[:SHOWN], *moved[-SHOWN:]]
        if len(shown) < len(moved):
            notes.append(f"The {SHOWN} best and worst of {len(moved)} classes that changed, in points of recall.")
        picture = plots.difference_bars(shown, max(abs(value) for _, value in shown)) if shown else None
        return Section("Changes", notes, picture, groups=self._contrasts(change))

    def _contrasts(self, pair: Comparison) -> list[dict[str, Any]]:
        sides = (
            (pair.first, pair.second, pair.first_right, pair.only_first),
            (pair.second, pair.first, pair.second_right, pair.only_second),
        )
        return [
            self._group(
                f"{right} correct, {wrong} wrong: {count}",
                [self._contrast(one, right, wrong) for one in cases],
                opened=False,
            )
            for right, wrong, cases, count in sides
            if cases
        ]

    def _group(self, title: str, cards: Sequence[dict[str, Any]], opened: bool = True) -> dict[str, Any]:
        return {"title": title, "open": opened, "cards": cards}

    def _case(self, case: Case, verb: str = "predicted") -> dict[str, Any]:
        parts = []
        if case.predicted is not None:
            parts.append(Markup("{} {} {:.3f}").format(verb, self._class(case.predicted), case.p_predicted))
        if case.given is not None:
            parts.append(Markup("label {} {:.3f}").format(self._class(case.given), case.p_given))
        return self._card(case.video, Markup(" · ").join(parts))

    def _contrast(self, one: Contrast, right: str, wrong: str) -> dict[str, Any]:
        text = Markup("label {}: {} gives it {:.3f}, {} {:.3f}").format(
            self._class(one.label), right, one.p_right, wrong, one.p_wrong
        )
        return self._card(
            one.video,
            text if one.predicted is None else text + Markup(", predicts {}").format(self._class(one.predicted)),
        )

    def _card(self, video: str, text: Markup) -> dict[str, Any]:
        anchor = None
        if video not in self.anchors:
            anchor = self.anchors[video] = f"video{len(self.anchors)}"
        if self.several:
            given = [self._class(k) for k in self.found.labels(video)]
            text += Markup("<br><small>labels: {}</small>").format(Markup(", ").join(given) if given else "none")
        if len(self.found.outputs) > 1:
            text += Markup("<br><small>{}</small>").format(self.found.right_about(video))
        return {"video": video, "text": text, "strips": self.strips.get(video, ()), "anchor": anchor}

    def _class(self, k: int) -> Markup:
        return Markup('<a href="#class{}">{}</a>').format(k, self.names[k])


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _test(several: bool) -> str:
    unit = "videos for which one predicts more of the labels" if several else "videos that only one has right"
    return f"exact sign test of the {unit}" + ("" if several else " (McNemar)")
