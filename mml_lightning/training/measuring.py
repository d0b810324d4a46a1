"""The networks of a run as they are measured: scores of every peer, and of what they are fused to.

Legend: B batch, V views (segments, clips), T frames, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.data.loading.presence import spread
from mml_lightning.evaluation.metrics import DEFAULT, FUSED, Scoring
from mml_lightning.evaluation.score_collector import ScoreCollector
from mml_lightning.fusion.fuse import Fusion, present_as_gate
from mml_lightning.fusion.gates import Gate, Look
from mml_lightning.modalities import Modality
from mml_lightning.training import lightning_internals, segments
from mml_lightning.training import phases as training_phases
from mml_lightning.training.epoch_means import Means
from mml_lightning.training.side_by_side import PeersModule

Batch = dict[str, Any]


class MeasuredPeers(PeersModule):
    """Peers, how they are fused, and the scores of a split.

    Args:
        peers, modalities, ids, multi_label, scoring, classes, views, max_views, test_name, fusion, gate: as of
            :class:`mml_lightning.training.cohort.Cohort`.
    """

    def __init__(
        self,
        peers: Mapping[str, Peer],
        modalities: Mapping[str, Modality],
        ids: Mapping[str, Sequence[str]],
        multi_label: Mapping[str, bool],
        scoring: Scoring = DEFAULT,
        classes: Mapping[str, Sequence[str]] | None = None,
        views: Mapping[str, Any] | None = None,
        test_name: str = "test",
        max_views: int | None = None,
        fusion: Fusion | None = None,
        gate: Gate | None = None,
        proxies: Mapping[str, Modality] | None = None,
    ) -> None:
        super().__init__()
        self.peers = nn.ModuleDict(peers)
        self.modalities = dict(modalities)
        self.ids = ids
        self.multi_label = dict(multi_label)
        self.scoring = scoring
        self.classes = dict(classes or {})
        self.views = dict(views or {})
        self.test_name = test_name
        self.max_views = max_views
        self.fusion = fusion
        self.gate = gate
        self.proxies = dict(proxies or {})
        self.used = Means()  # shares of the segments in which each peer counts
        self.scores: dict[str, ScoreCollector] = {}
        self.validated_at: int | None = None  # step of the last whole validation

    @property
    def parts(self) -> dict[str, Any]:
        """All that may learn: the peers and, where they have parameters, `fusion` and `gate`."""
        joint = {training_phases.FUSION: self.fusion, training_phases.GATE: self.gate}
        return {
            **dict(self.peers.items()),
            **{name: part for name, part in joint.items() if part is not None and any(True for _ in part.parameters())},
        }

    def forward(self, clips: Mapping[str, Tensor]) -> dict[str, PeerOutput]:
        """uint8 clips {modality: [B, T, C, H, W]} -> {peer: PeerOutput}; normalised here, on the device."""
        prepared = {m.name: m(clips[m.name]).to(self.dtype) for m in self.modalities.values()}
        return {name: peer(prepared[self.modalities[name].name]) for name, peer in self.peers.items()}

    def gates(self, batch: Batch, epoch: int | None = None, rounds: int = 0) -> dict[str, Tensor]:
        """{peer: [B, V]}: how much each peer counts in each segment of a batch, 0 where the video lacks its modality.

        Args:
            epoch: of training; None in evaluation.
            rounds: epochs that the gate has been trained for.
        """
        views = next(iter(batch["clips"].values())).shape[1]
        present = {name: batch["present"][modality.name] for name, modality in self.modalities.items()}
        opened = present_as_gate(present, views)
        if self.gate is None:
            return opened
        clips = {}
        if self.gate.takes_clips:
            distinct = {modality.name: modality for modality in (*self.modalities.values(), *self.proxies.values())}
            through = {name: self.gate.seen_through.get(name, own.name) for name, own in self.modalities.items()}
            clips = {
                name: modality(batch["clips"][name].flatten(0, 1)).to(self.dtype).unflatten(0, (-1, views))
                for name, modality in distinct.items()
                if name in through.values()
            }
            present = {name: present[name] & batch["present"][modality] for name, modality in through.items()}
        chosen = self.gate(Look(clips, present, batch["id"], views, epoch, rounds))
        return {name: opened[name].to(chosen[name]) * chosen[name] for name in self.peers}

    def on_validation_epoch_start(self) -> None:
        self._start("val")

    def on_test_epoch_start(self) -> None:
        self._start("test")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")
        self.validated_at = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        self._finish(self.test_name)

    def _start(self, split: str) -> None:
        name, views = (self.test_name, self.views) if split == "test" else (split, {})
        folder = Path(self.trainer.default_root_dir) / "predictions" if lightning_internals.is_attached(self) else None
        self.scores = {
            head: ScoreCollector(
                self.ids[split], multi_label, self.classes.get(head, ()), name, self.scoring, views, folder
            )
            for head, multi_label in self.multi_label.items()
        }

    def _collect(self, batch: Batch) -> None:
        for scores in self.scores.values():
            scores.failures.update(dict(batch["failures"]))
            scores.damaged |= {video: loss for video, kind, loss in batch.get("notes", ()) if kind == "damaged"}
        if not batch["id"]:  # nothing in this batch could be read
            return
        views = next(iter(batch["clips"].values())).shape[1]
        present = {name: batch["present"][modality.name] for name, modality in self.modalities.items()}
        gate = self.gates(batch) if self.fusion is not None else {}
        if self.gate is not None:
            for name, opened in gate.items():
                self.used.add(f"use_{name}", opened.float().mean(), len(opened))
        skips = self.gate is not None and self.gate.skips
        if skips:
            outputs = self.chosen(batch["clips"], gate)
        else:
            outputs = self._outputs({m: clip.flatten(0, 1) for m, clip in batch["clips"].items()}, views)
        logits = {name: output.logits for name, output in outputs.items()}
        if self.fusion is not None:
            features = {name: output.features["pooled"] for name, output in outputs.items() if output.features}
            fused = self.fusion(logits, gate, features)
            # a peer that has seen some segments only has no scores of its own
            logits = {**({} if skips else logits), FUSED: fused}
            present[FUSED] = torch.stack(list(present.values())).any(0)  # what any peer has seen
        for head, scores in self.scores.items():
            own = {name: values[head] for name, values in logits.items()}
            scores.update(batch["index"], own, batch["target"][head], present)

    def _outputs(self, clips: Mapping[str, Tensor], views: int) -> dict[str, PeerOutput]:
        """What the peers say of `views` views of each video [n, T, C, H, W]: logits [B, V, K] and, where the fusion
        looks at them, pooled features [B, V, D]."""
        kept = [self._kept(part) for part in self._in_turn(clips)]
        return {name: segments.apart(segments.joined([one[name] for one in kept]), views) for name in self.peers}

    def chosen(self, clips: Mapping[str, Tensor], gate: Mapping[str, Tensor]) -> dict[str, PeerOutput]:
        """What the peers say of those segments alone in which they are used; the rest is 0, which the fusion takes for
        a skipped peer all the same.

        Args:
            clips: {modality: [B, V, T, ...]} as stored.
            gate: {peer: [B, V]}.
        """
        found = {}
        for name, modality in self.modalities.items():
            peer: Any = self.peers[name]
            rows = (gate[name] > 0).flatten().nonzero().squeeze(1)
            views = gate[name].shape[1]
            whole = clips[modality.name].flatten(0, 1)
            parts = [
                self._kept({name: peer(modality(whole[some]).to(self.dtype))})[name]
                for some in rows.split(self.max_views or max(1, len(rows)))
                if len(some)
            ]
            if not parts:
                blank = torch.zeros(len(whole), 1, device=whole.device).to(self.dtype)
                logits = {head: blank.expand(-1, k) for head, k in peer.num_classes.items()}
                wide = {"pooled": blank.expand(-1, int(peer.net.feature_dim))}
                output = PeerOutput(logits, wide if self.features_wanted else {})
            else:
                said = segments.joined(parts)
                output = PeerOutput(*({k: spread(v, rows, len(whole), 0.0) for k, v in one.items()} for one in said))
            found[name] = segments.apart(output, views)
        return found

    @property
    def features_wanted(self) -> bool:
        """Whether the fusion looks at pooled features."""
        return self.fusion is not None and self.fusion.takes_features

    def _in_turn(self, clips: Mapping[str, Tensor]) -> Iterator[dict[str, PeerOutput]]:
        """Every `max_views` views in turn."""
        count = len(next(iter(clips.values())))
        size = self.max_views or count
        return (self({name: clip[n : n + size] for name, clip in clips.items()}) for n in range(0, count, size))

    def _kept(self, outputs: Mapping[str, PeerOutput]) -> dict[str, PeerOutput]:
        """Outputs without the features that nobody looks at."""
        wanted = ("pooled",) if self.features_wanted else ()
        return {n: PeerOutput(one.logits, {key: one.features[key] for key in wanted}) for n, one in outputs.items()}

    def _finish(self, split: str) -> None:
        if self.gate is not None:
            used = self.used.compute(self.trainer.world_size)
            self.log_dict({f"{split}/{FUSED}/{key}": value for key, value in used.items()}, sync_dist=False)
            self.used.reset()
        for head, scores in self.scores.items():
            scores.gather()
            prefix = split if len(self.scores) == 1 else f"{split}/{head}"
            for peer, metrics in (scores.compute() if scores.index else {}).items():
                # every rank holds all scores, so there is nothing to reduce
                self.log_dict({f"{prefix}/{peer}/{key}": value for key, value in metrics.items()}, sync_dist=False)
