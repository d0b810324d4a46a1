"""The peers of a run, trained together: one forward of each, one sum of losses, one optimiser.

Legend: B batch, V views, T frames, C channels, K classes.

Joint training equals separate processes: peers share no parameter, teachers are detached, gradients are clipped per
peer, and the random numbers of a peer's forward pass are keyed by (seed, epoch, batch, peer), so that a peer's dropout
does not depend on who trains beside it. Where labels teach what the peers are fused to, each learns with the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mml_lightning.backbones import own_draws
from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.data.loading.presence import Counter, Presence, reached, spread
from mml_lightning.evaluation.metrics import DEFAULT, FUSED, Scoring
from mml_lightning.fusion.fuse import Fusion
from mml_lightning.fusion.gates import Gate
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective, Part, total
from mml_lightning.training import lightning_internals, segments
from mml_lightning.training import phases as training_phases
from mml_lightning.training.accuracy import accuracies
from mml_lightning.training.balance import GradientModulation
from mml_lightning.training.epoch_means import Means
from mml_lightning.training.measuring import Batch, MeasuredPeers
from mml_lightning.training.mixing import Mix, Mixing, larger
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.training.phases import Phase
from mml_lightning.training.placement import one_peer
from mml_lightning.training.turns import Turns
from mml_lightning.utils.async_copy import HostCopy
from mml_lightning.utils.seeds import keyed_seed

__all__ = ["Batch", "Cohort"]


class Cohort(MeasuredPeers):
    """Peers, objective and metrics of one stage.

    Args:
        peers: networks by name; each maps clips [B, T, C, H, W] to a :class:`PeerOutput`.
        modalities: modality of each peer.
        objective: outputs and targets to named terms.
        plan: optimiser and schedule.
        ids: ids of the records per split ("val", "test"), in dataset order.
        multi_label: per head, whether targets are multi-hot.
        freeze_bn: which batch norms of the trained peers stay as they are, see `freeze_batch_norm`.
        scoring: how logits become numbers.
        classes: per head, names of the classes, kept in the score dump.
        views: the `views` of the test split, kept in the score dump.
        seed: keys the random numbers of the forward passes.
        description: plain values stored in the checkpoint: the config, and how to rebuild each peer.
        max_views: largest number of views of one forward pass in evaluation; None for a batch at once.
        test_name: first word of the metrics of `trainer.test`.
        fusion: how the peers' logits become one more output, "fused", which the objective may teach; None for none.
        gate: which peers are used in which segments; None: all that have seen the video.
        phases: in order, the first with this objective and plan; none: one phase, which trains whatever learns.
        mixing: mixup and CutMix of training batches.
        modulation: what balances the gradients of peers that learn together; None: nothing.
        bn_per_clip: batch norms see one segment of every video at a time; else all together.
        proxies: modalities that the gate alone looks at, by their names.
    """

    def __init__(
        self,
        peers: Mapping[str, Peer],
        modalities: Mapping[str, Modality],
        objective: Objective,
        plan: OptimiserPlan,
        ids: Mapping[str, Sequence[str]],
        multi_label: Mapping[str, bool],
        freeze_bn: str = "none",
        scoring: Scoring = DEFAULT,
        classes: Mapping[str, Sequence[str]] | None = None,
        views: Mapping[str, Any] | None = None,
        seed: int = 0,
        description: Mapping[str, Any] | None = None,
        test_name: str = "test",
        max_views: int | None = None,
        fusion: Fusion | None = None,
        gate: Gate | None = None,
        phases: Sequence[Phase] = (),
        mixing: Mixing | None = None,
        bn_per_clip: bool = False,
        proxies: Mapping[str, Modality] | None = None,
        modulation: GradientModulation | None = None,
    ) -> None:
        super().__init__(
            *(peers, modalities, ids, multi_label, scoring, classes, views, test_name, max_views, fusion, gate, proxies)
        )
        self.save_hyperparameters(dict(description or {}))
        self.phases = tuple(phases) or (training_phases.one_phase(objective, plan),)
        self.frozen = training_phases.never_trained(self.phases, peers)  # they teach only
        self.freeze_bn = freeze_bn
        self.seed = seed
        self.mixing = mixing or Mixing()
        self.bn_per_clip = bn_per_clip
        self.modulation = modulation
        self._mix: Mix | None = None  # of the batch
        self.means = Means()
        self._counter: Counter | None = None
        self._idle: list[str] = []  # peers that no sample of the step is for
        self.log_every = 10  # steps
        self._epoch: dict[str, float] = {}
        self._loss: HostCopy | None = None  # of a step that is a row of the log
        self.trained = False  # in this process
        self.turns = Turns()
        self.learnable = training_phases.learnable(self.parts)
        self.enter(self.phases[0])

    def enter(self, phase: Phase) -> None:
        """Go over to a phase: what learns, from whom and how. A trainer's optimiser is its own: see `_keep_phase`."""
        self.phase, self.objective, self.plan = phase, phase.objective, phase.plan
        self._counter = None
        phase.set_gradients(self.parts, self.learnable)
        for name, peer in self.peers.items():
            if isinstance(peer, Peer):
                peer.stop_gradient_at_heads(name in self.objective.headed)
        self.set_modes()

    def _keep_phase(self) -> None:
        """Go over to the phase of this epoch, with an optimiser and a schedule of its own."""
        due = training_phases.phase_of(self.phases, self.current_epoch)
        if due is not self.phase:
            left = self.phase
            self.enter(due)
            self.turns.change(self.trainer, self.phases, left, due)
            if not self.turns.again:
                training_phases.say(self.phases, due)

    @property
    def trained_peers(self) -> dict[str, Any]:
        """What learns in this phase, by name: peers, fusion and gate; the others teach only, those `frozen` always."""
        return {name: part for name, part in self.parts.items() if name in self.phase.trains}

    @property
    def learners(self) -> dict[str, Any]:
        """What learns in some phase, by name."""
        return {name: part for name, part in self.parts.items() if any(name in one.trains for one in self.phases)}

    def set_modes(self) -> None:
        """Training modes of the parts. Lightning does not call `train()` when fit starts: the epoch hook calls this."""
        self.phase.set_modes(self.parts, self.freeze_bn)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        strategy = one_peer(self.trainer)
        placed = None if strategy is None else strategy.own
        together, divided = self._micro_batches(batch_idx)
        presence = self._presence_of(batch, batch_idx, 1 if placed is not None else self.trainer.world_size)
        seen = None if presence is None else presence.mask
        self._mix = self.mixing.draw(len(batch["index"]), *self._key(batch_idx))
        self._seed_forward("", batch_idx)  # for a lesson that draws
        apart = self.beside.outputs(
            [name for name in self.peers if placed in (None, name)],
            lambda name: self._output(name, batch, batch_idx, None if seen is None else seen[name]),
        )
        outputs = {name: segments.of_video(output) for name, output in apart.items()}
        if strategy is not None:
            outputs = strategy.exchange(outputs[strategy.own])
        if FUSED in self.objective.outputs:
            outputs[FUSED] = segments.of_video(self._fused(apart, batch, batch_idx, seen))
        epoch = self.phase.begun(self.current_epoch) + batch_idx / max(1, int(self.trainer.num_training_batches))
        parts = self.objective.parts(outputs, batch["target"], seen, epoch)
        if self._mix is not None:
            others = self.objective.parts(outputs, self._mix.partners(batch["target"]), seen, epoch, parts)
            parts = self._mix.parts(parts, others)
        terms = self.objective.summed(parts, presence.weight if presence is not None else None)
        loss = total(terms)
        self._keep_means(parts, loss, len(batch["index"]), presence is not None)
        if self.modulation is not None:
            self.modulation.count({n: outputs[n] for n in self.peers}, larger(self._mix, batch["target"]), seen)
        for key, value, rows in accuracies({n: outputs[n] for n in terms}, larger(self._mix, batch["target"]), seen):
            self.means.add(f"train/{key}", value, rows)
        if placed is not None:
            loss = total({placed: terms[placed]})
        if seen is not None:
            loss = loss + sum(reached(part) for name, part in self.trained_peers.items() if placed in (None, name))
        return loss if together == divided else loss * (divided / together)

    def _output(self, name: str, batch: Batch, batch_idx: int, seen: Tensor | None) -> PeerOutput:
        """What a peer says of a batch, segment by segment: everything [B, V, ..]. Samples that lack its modality
        (`seen`, [B] bool) are not forwarded, and their rows are NaN."""
        peer: Any = self.peers[name]
        modality = self.modalities[name]
        clips = batch["clips"][modality.name]
        size, views = clips.shape[:2]
        if seen is not None:
            rows = seen.nonzero().squeeze(1).to(clips.device)
            if not len(rows):
                blank = torch.full((size, views, 1), torch.nan, device=clips.device).to(self.dtype)
                wide = {"pooled": self.fusion.widths[name]} if self.fusion and self.features_wanted else {}
                return PeerOutput(
                    *({key: blank.expand(-1, -1, k) for key, k in own.items()} for own in (peer.num_classes, wide))
                )
            clips = clips if self._mix is not None else clips[rows]
        self._seed_forward(name, batch_idx)
        with torch.set_grad_enabled(name in self.phase.trains):
            prepared = modality(clips.flatten(0, 1)).to(self.dtype)
            if self._mix is not None:
                prepared = self._mix.clips(prepared, None if seen is None else rows, views)
            output = segments.forward(peer, prepared, views, self.bn_per_clip)
        if seen is None:
            return output
        return PeerOutput(*({k: spread(v, rows, size) for k, v in values.items()} for values in output))

    def _fused(
        self, apart: Mapping[str, PeerOutput], batch: Batch, batch_idx: int, seen: Mapping[str, Tensor] | None
    ) -> PeerOutput:
        """What the peers are fused to, logits [B, V, K].

        Args:
            seen: samples that each peer has forwarded; None: all.
        """
        assert self.fusion is not None
        self._seed_forward(FUSED, batch_idx)
        rounds = training_phases.rounds(self.phases, training_phases.GATE, self.current_epoch)
        gate = self.gates(batch, self.current_epoch, rounds)
        present = {name: batch["present"][modality.name] for name, modality in self.modalities.items()}
        if seen is not None:  # a mixed sample has what its partner has, too
            present = {name: seen[name].to(own.device) for name, own in present.items()}
            gate = {name: value * present[name][:, None] for name, value in gate.items()}
        known = {name: _shown(output, present[name]) for name, output in apart.items()}
        logits = {name: output.logits for name, output in known.items()}
        features = {name: output.features["pooled"] for name, output in known.items() if self.features_wanted}
        used = {f"use_{name}": opened.float()[..., None] for name, opened in gate.items() if self.gate is not None}
        for key, value in used.items():
            self.means.add(f"train/{FUSED}/{key}", value.mean(), len(value))
        return PeerOutput(self.fusion(logits, gate, features), used)

    def _micro_batches(self, batch_idx: int) -> tuple[int, int]:
        """Batches whose gradients make the step that this one belongs to, and by how many Lightning divides each: the
        last step of an epoch may have fewer."""
        usual = int(self.trainer.accumulate_grad_batches)
        left = self.trainer.num_training_batches - batch_idx // usual * usual
        return int(min(usual, left)), usual

    def _presence_of(self, batch: Batch, batch_idx: int, ranks: int) -> Presence | None:
        """Which samples of the step have what; None where samples that lack something do not come."""
        together, usual = self._micro_batches(batch_idx)
        if "step" in batch:
            place = batch["place"]
            # a limit on the batches of an epoch may cut the step that was read
            step = batch["step"][: together - batch_idx % usual + place]
        elif batch.get("complete") or all(bool(seen.all()) for seen in batch.get("present", {}).values()):
            return None
        elif ranks * together > 1:
            raise ValueError("samples lack a modality: read them with `presence.by_step`, as VideoData does")
        else:
            step, place = [{name: seen.cpu().numpy() for name, seen in batch["present"].items()}], 0
        step = [self.mixing.seen(seen, *self._key(batch_idx - place + n)) for n, seen in enumerate(step)]
        if self._counter is None:
            self._counter = Counter({name: m.name for name, m in self.modalities.items()}, self.objective.groups, FUSED)
        presence = self._counter.presence(step, place, ranks)
        self._idle = presence.idle(name for name in self.trained_peers if name in self.peers)
        return presence

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A peer that has seen no sample of the step takes none: no momentum, no decay."""
        for name in self._idle:
            for parameter in self.peers[name].parameters():
                parameter.grad = None  # the optimiser passes by what has no gradient
        if self.modulation is not None:
            trained = {name: peer for name, peer in self.peers.items() if name in self.phase.trains}
            for name, factor in self.modulation.change(trained, self.global_step, self.trainer.world_size):
                self.means.add(f"train/{name}/balance", torch.tensor(factor, device=self.device), 1)

    def on_train_start(self) -> None:
        self.trained = True
        self._keep_phase()  # an epoch that is continued does not start
        self.set_modes()
        if self.means.sums and self.trainer.is_last_batch:  # all that is left of it is its validation
            self._log_means()

    def on_train_epoch_start(self) -> None:
        self._keep_phase()
        self.set_modes()
        self.means.reset()

    def on_train_epoch_end(self) -> None:
        """The row of the epoch, written before its checkpoint is: Lightning's own would be missing after a resume."""
        if self._epoch:
            self._write_row({{"train/loss": "train/loss_epoch"}.get(key, key): x for key, x in self._epoch.items()})
        self.means.reset()

    def _keep_means(self, parts: Sequence[Part], loss: Tensor, size: int, some_missing: bool) -> None:
        """Add a step to the means of the epoch, each term by the samples in it; now and then the loss of a step is a
        row of the log."""
        kept: dict[str, tuple[Tensor, int]] = {}
        for part in parts:
            name = f"train/{part.student}/{part.name}"
            if name in kept and not some_missing:
                kept[name] = (kept[name][0] + part.value, part.rows)
            else:  # means over other samples are added when they are known
                kept[f"{name}|{len(kept)}" if name in kept else name] = (part.value, part.rows)
        for name, (value, rows) in kept.items():
            self.means.add(name, value, rows)
        self.means.add("train/loss", loss, size)
        if self.trainer.progress_bar_callback is not None:
            self.log("loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True, logger=False)
        if not lightning_internals.accumulates(self.trainer) and (self.global_step + 1) % self.log_every == 0:
            self._loss = HostCopy(loss.detach())

    def on_after_backward(self) -> None:
        """A GPU has been given its backward pass, and does not stand still while the host reads the loss."""
        if self._loss is not None:
            self._write_row({"train/loss_step": self._loss.tolist()})
            self._loss = None

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            self._log_means()

    def _log_means(self) -> None:
        """Make the means of the epoch known to callbacks."""
        self._epoch = self.means.compute(self.trainer.world_size)
        self.log_dict(self._epoch, on_step=False, on_epoch=True, batch_size=1, logger=False)

    def _write_row(self, values: Mapping[str, float]) -> None:
        row = {**values, "epoch": self.current_epoch, **training_phases.column(self.phases, self.phase)}
        for logger in self.loggers:
            logger.log_metrics(row, step=lightning_internals.steps_logged(self.trainer))
            logger.save()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each peer is clipped by its own norm, as in processes of its own; Lightning would clip by the joint norm."""
        if self.plan.clip_norm is not None:
            for part in self.parts.values():
                torch.nn.utils.clip_grad_norm_(part.parameters(), self.plan.clip_norm)

    def configure_optimizers(self) -> Any:
        groups = [g for name, peer in self.trained_peers.items() for g in self.plan.parameter_groups(name, peer)]
        optimizer = self.plan.optimizer(groups)
        if self.plan.interval == "step":
            per_epoch = lightning_internals.steps_per_epoch(self.trainer)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.plan.factor(step / per_epoch))
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.plan.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.plan.interval}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(training_phases.state(self.phases, self.phase) | self.turns.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The state of the optimiser is that of the phase that was left: it is made for it first."""
        self.enter(training_phases.restored(self.phases, checkpoint))
        self.turns.load(checkpoint)

    def rank_state(self) -> dict[str, Any]:
        """What every rank has of its own in the middle of an epoch."""
        return {"means": self.means.state()}

    def load_rank_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.means.load([state["means"] for state in states], self.device)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trainer.state.fn == "fit":
            self.log_dict(training_phases.column(self.phases, self.phase), sync_dist=False)

    def _key(self, batch_idx: int) -> tuple[int, ...]:
        """Of what is random in a batch."""
        return self.seed, self.current_epoch, batch_idx, self.global_rank if one_peer(self.trainer) is None else 0

    def _seed_forward(self, peer: str, batch_idx: int) -> None:
        own_draws.seed(keyed_seed(*self._key(batch_idx), peer, size=7), self.device)


def _shown(output: PeerOutput, seen: Tensor) -> PeerOutput:
    """An output [B, V, ..] with zeros where samples are not `seen` [B]: a gradient of 0 times NaN is NaN."""
    logits, features = (
        {key: torch.where(seen.view(-1, *[1] * (value.ndim - 1)), value, 0.0) for key, value in one.items()}
        for one in (output.logits, {key: value for key, value in output.features.items() if key == "pooled"})
    )
    return PeerOutput(logits, features)
