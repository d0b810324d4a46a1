"""Config to data: modalities, records and how they become samples. Nothing is written here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_lightning import nodes
from mml_lightning.data.check import with_readers
from mml_lightning.data.clips import ClipDataset, Geometries, Starts
from mml_lightning.data.draws import FixedCrops, RandomCrop, TrainDraw, ValDraw, ViewsDraw
from mml_lightning.data.flow import FlowCache, FlowSettings
from mml_lightning.data.records import SPLITS, Dataset, validate
from mml_lightning.data.sources import SOURCES, SourceOpener
from mml_lightning.errors import UserError
from mml_lightning.loaders import LoaderSettings
from mml_lightning.modalities import Modality
from mml_lightning.nodes import plain
from mml_lightning.transforms import TestGeometry, TrainGeometry


def modalities(cfg: DictConfig) -> dict[str, Modality]:
    """The modalities of the run, in the order they were typed.

    Raises:
        UserError: a field of a modality is unknown, missing or wrong.
    """
    result = {}
    for name, values in plain(cfg.modality).items():
        try:
            result[name] = Modality(name=name, **values)
        except (TypeError, ValueError) as error:
            raise UserError(f"modality {name}: {error}; see conf/modality/{name}.yaml") from None
        if result[name].source not in SOURCES:
            raise UserError(f"modality {name}: source {result[name].source!r} is unknown; use one of {list(SOURCES)}")
    return result


def dataset(cfg: DictConfig, needed: Sequence[str] | None = None) -> Dataset:
    """Records of all splits, validated: the splits `needed`, by default those that a training run uses.

    Raises:
        UserError: whatever the reader or the validation finds.
    """
    checked = Path(cfg.paths.root) / "check" / f"{cfg.data.name}.csv"  # written by `mml check`
    return validate(with_readers(records(cfg), checked), needed or (SPLITS if cfg.test else SPLITS[:2]))


def records(cfg: DictConfig) -> Dataset:
    """Records of all splits as the reader finds them; the files may be missing.

    Raises:
        UserError: whatever the reader finds.
    """
    plain(cfg.data)  # a required value is missed by its own name
    made = nodes.make(cfg.data.reader)
    assert isinstance(made, Dataset)
    return made


def check_batch(cfg: DictConfig, data: Dataset, ranks: int) -> None:
    """Raises:
    UserError: the training split has no full batch, or a batch can't be shared out among the ranks.
    """
    size, batch = len(data.splits["train"]), int(cfg.data.batch_size)
    if size < batch:
        raise UserError(f"data.batch_size={batch} is larger than the train split ({size} videos): lower it")
    if batch % ranks:
        raise UserError(f"data.batch_size={batch} is the batch over all {ranks} ranks: make it a multiple of {ranks}")


def flow_cache(cfg: DictConfig, chosen: Mapping[str, Modality]) -> FlowCache | None:
    """The flow cache of the data set; None in runs without flow."""
    if all(modality.source != "flow" for modality in chosen.values()):
        return None
    return FlowCache(Path(cfg.paths.cache) / "flow" / cfg.data.name, FlowSettings(**plain(cfg.flow)))


def clip_datasets(
    cfg: DictConfig, data: Dataset, cache: FlowCache | None, chosen: Sequence[Modality]
) -> dict[str, ClipDataset]:
    """How samples are made, per split. Validation is one clip and the central crop; `views` shape the test split.

    Raises:
        UserError: sampling, transforms or views are wrong.
    """
    sampling, transforms, views = cfg.sampling, cfg.transforms, cfg.views
    draw: dict[str, Any] = {"num_segments": sampling.num_segments, "policy": sampling.policy}
    test_output = transforms.short_side if views.full_resolution else transforms.output
    make = functools.partial(
        ClipDataset,
        modalities=list(chosen),
        heads=data.heads,
        opener=SourceOpener(cfg.data.decoder, cache),
        seed=cfg.seed,
        shared=sampling.shared,
        span_margin=cfg.data.span_margin,
        mirrored=data.mirrored,
        missing=cfg.data.missing,
    )
    try:
        trained = TrainGeometry(transforms.output, tuple(transforms.scales), transforms.flip, sampling.policy)
        starts: dict[str, Starts] = {
            "train": TrainDraw(mode=sampling.mode, dense_length=sampling.dense_length, **draw),
            "val": ValDraw(mode=sampling.mode, dense_length=sampling.dense_length, **draw),
            "test": ViewsDraw(uniform=views.uniform, dense=views.dense, dense_length=views.dense_length, **draw),
        }
        crops: dict[str, Geometries] = {
            "train": RandomCrop(trained),
            "val": FixedCrops(TestGeometry(transforms.output, transforms.short_side, 1)),
            "test": FixedCrops(TestGeometry(test_output, transforms.short_side, views.crops)),
        }
    except ValueError as error:
        raise UserError(str(error)) from None
    return {
        split: make(
            records=list(data.splits[split]), starts=starts[split], geometries=crops[split], replace=split == "train"
        )
        for split in SPLITS
        if data.splits.get(split)
    }


def loader_settings(cfg: DictConfig) -> LoaderSettings:
    return LoaderSettings(cfg.data.batch_size, cfg.data.eval_batch_size, cfg.data.workers)
