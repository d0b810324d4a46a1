"""Config to data: modalities, records and how they become samples. Nothing is written here."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mml_lightning.config import instantiate, known_keys, plugins
from mml_lightning.config.settings import Settings
from mml_lightning.data import check
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading import memory
from mml_lightning.data.loading.dataset import ClipDataset, Geometries, Starts
from mml_lightning.data.loading.draws import (
    FixedCrops,
    TrainTemporalSampler,
    ValTemporalSampler,
    ViewsTemporalSampler,
    training_crop,
)
from mml_lightning.data.loading.kinds import Kind
from mml_lightning.data.loading.loader_settings import LoaderSettings
from mml_lightning.data.loading.ram_cache import RamCache, ram_cache
from mml_lightning.data.loading.sources import SOURCES, SourceOpener
from mml_lightning.data.records.checks import check_flow_lengths, warn_of_doubles
from mml_lightning.data.records.readers import read_pack
from mml_lightning.data.records.record_store import gc_paused, stored
from mml_lightning.data.records.records import SPLITS, Dataset, rows, validate
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.modalities import Modality
from mml_lightning.sampling import independent
from mml_lightning.transforms import TestGeometry
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.threads import cores

log = logging.getLogger(__name__)

MIRRORED_CROPS = 10  # the number of crops per clip with which every one is mirrored too


def modalities(cfg: Settings) -> dict[str, Modality]:
    """The modalities of the run, in the order they were typed.

    Raises:
        UserError: a field of a modality is unknown, missing or wrong.
    """
    kinds, result = sources(cfg), {}
    for name, values in cfg.plain("modality").items():
        try:
            result[name] = plugins.modality(name, values, cfg.trusted)
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"modality {name}: {error}; see conf/modality/{name}.yaml") from None
        if result[name].source not in kinds:
            raise UserError(f"modality {name}: source {result[name].source!r} is unknown; use one of {list(kinds)}")
    return result


def sources(cfg: Settings) -> dict[str, Kind]:
    """The kind of every source that a modality may look at: ours, and those of `sources`. What their packages add to
    ours (preparations, builders of networks) is there afterwards.

    Raises:
        UserError: one of `sources` has the name of ours, or is no kind.
    """
    kinds, own = dict(SOURCES), cfg.get("sources") or {}
    if not isinstance(own, Mapping):
        raise UserError(f"sources={own} must be a table {{name: {{_target_: my_package.MyKind}}}}, docs/code.md")
    for name, values in own.items():
        if name in SOURCES:
            raise UserError(f"sources.{name}: {name} already exists; choose another name")
        called = isinstance(values, Mapping) and instantiate.TARGET in values
        made = instantiate.instantiate(cfg.plain(f"sources.{name}"), cfg.trusted) if called else None
        if not isinstance(made, Kind):
            raise UserError(
                f"sources.{name} is not a kind of source: give {{_target_: my_package.MyKind}}, docs/code.md"
            )
        kinds[str(name)] = made
    return kinds


def packed(cfg: Settings) -> bool:
    """Whether the run reads a pack."""
    return str(cfg.data.reader[instantiate.TARGET]).rpartition(".")[2] == read_pack.__name__


def cheap(cfg: Settings) -> bool:
    """Whether packing the data would not make reading cheaper: they are a pack, or decoded once and kept in memory."""
    return packed(cfg) or cfg.data.cache == "ram"


def dataset(cfg: Settings, needed: Sequence[str] | None = None) -> Dataset:
    """Records of all splits, validated: the splits `needed`, which may lack labels, by default those that a training
    run uses.

    Raises:
        UserError: whatever the reader or the validation finds.
    """
    with gc_paused():
        return _dataset(cfg, needed)


def _dataset(cfg: Settings, needed: Sequence[str] | None) -> Dataset:
    splits = needed or (SPLITS if cfg.test else SPLITS[:2])
    looked_at = {modality.source for modality in modalities(cfg).values()}
    data = checked_records(cfg, looked_at)
    if "train" in splits:
        _check_left_out(cfg, data, len(data.splits.get("train", ())) + len(data.left_out))
    validate(data, splits, needed is None)
    warn_of_doubles(data, splits)
    if "flow" in looked_at:
        check_flow_lengths(data, splits)
    return data


def checked_records(cfg: Settings, looked_at: Collection[str]) -> Dataset:
    """Records as :func:`records`, with the readers that `mml check` chose and without what it found unusable."""
    return check.with_check(records(cfg), check_folder(cfg) / check.FILE, looked_at, leaves_out(cfg))


def check_folder(cfg: Settings) -> Path:
    """Where `mml check` leaves what it finds out about the data of a config."""
    return check.folder(Path(cfg.paths.root), cfg.data.name, cfg.plain("data.reader"))


def leaves_out(cfg: Settings) -> bool:
    """Whether training leaves out what `mml check` found unusable: `data.quarantine`."""
    return cfg.data.quarantine == "use"


def _check_left_out(cfg: Settings, data: Dataset, videos: int) -> None:
    count, share = len(data.left_out), float(cfg.data.max_bad_share)
    if count > share * videos:
        raise UserError(
            f"data={data.name}: mml check found {count} of {videos} training videos unusable, more than "
            f"data.max_bad_share={share:g}, first {next(iter(data.left_out.values()))}; "
            "repair them, remove their lines or raise the share"
        )


def records(cfg: Settings) -> Dataset:
    """Records of all splits as the reader finds them; the files may be missing.

    Raises:
        UserError: whatever the reader finds.
    """
    reader = cfg.plain("data")["reader"]  # a required value is missed by its own name
    made = instantiate.instantiate(reader, cfg.trusted)
    assert isinstance(made, Dataset)
    return made


def check_batch(cfg: Settings, data: Dataset, ranks: int) -> None:
    """Raises:
    UserError: the training split has no full batch, or a batch can't be shared out among the ranks.
    """
    size, batch = len(data.splits["train"]), int(cfg.data.batch_size)
    if size < batch:
        raise UserError(f"data.batch_size={batch} is larger than the train split ({size} videos): lower it")
    if batch % ranks:
        raise UserError(f"data.batch_size={batch} is the batch over all {ranks} ranks: make it a multiple of {ranks}")


def flow_cache(cfg: Settings, chosen: Mapping[str, Modality]) -> FlowCache | None:
    """The flow cache of the data set; None in runs without flow."""
    if all(modality.source != "flow" for modality in chosen.values()):
        return None
    return flow_store(cfg)


def flow_store(cfg: Settings) -> FlowCache:
    """The flow cache of the data set, whatever the modalities.

    Raises:
        UserError: `flow` is wrong.
    """
    root = Path(cfg.paths.cache) / "flow" / cfg.data.name
    return FlowCache(root, FlowSettings(**known_keys.taken(cfg, "flow")), indexes(cfg))


def indexes(cfg: Settings) -> IndexStore:
    """Where what is known of each video file lies, beside the flow."""
    return IndexStore(Path(cfg.paths.cache) / "videos")


def decoded(cfg: Settings) -> RamCache | None:
    """Where decoded videos are kept: `data.cache`."""
    return ram_cache(int(cfg.data.cache_mb)) if cfg.data.cache == "ram" else None


def _reducible(cfg: Settings) -> bool:
    """Whether frames may be decoded at a fraction of their size: `transforms.reduced_decode`.

    Raises:
        UserError: whole frames are to be kept.
    """
    wish = cfg.transforms.reduced_decode
    if wish == "auto" and cfg.data.cache == "ram":
        raise UserError(
            "data.cache=ram keeps whole frames, transforms.reduced_decode=auto decodes reduced ones: set "
            "data.cache=none, or transforms.reduced_decode=never"
        )
    return bool(wish == "auto")


def _check_sources(data: Dataset, chosen: Sequence[Modality], kinds: Mapping[str, Kind]) -> None:
    wanted, known = {modality.source for modality in chosen}, set[str]()
    for _, media, *_ in itertools.chain.from_iterable(map(rows, data.splits.values())):
        known |= media.keys()
        if wanted <= known | {name for name in wanted if kinds[name].made_of in known}:
            return
    for modality in chosen:
        if modality.source not in known and kinds[modality.source].made_of not in known:
            raise UserError(
                f"modality {modality.name} needs {modality.source}, data={data.name} has only {sorted(known)}: "
                "choose another modality, or name its files in data"
            )


def _warn_of_mirrored_views(data: Dataset, crops: int) -> None:
    swapped = sum(len(partners) for partners in data.mirrored.values())
    if crops == MIRRORED_CROPS and swapped and "test" in data.splits:
        log.warning(
            "views.crops=%d: half of the crops are mirrored, and %d classes of data=%s become others in a mirror: "
            "their scores are averaged as they are, which makes such classes alike; use views.crops=5",
            crops,
            swapped,
            data.name,
        )


def clip_datasets(
    cfg: Settings, data: Dataset, cache: FlowCache | None, chosen: Sequence[Modality]
) -> dict[str, ClipDataset]:
    """How samples are made, per split. Validation is one clip and the central crop; `views` shape the test split.

    Raises:
        UserError: sampling, transforms or views are wrong.
    """
    kinds = sources(cfg)
    _check_sources(data, chosen, kinds)
    sampling, transforms, views = cfg.sampling, cfg.transforms, cfg.views
    _warn_of_mirrored_views(data, views.crops)
    short_side, antialias = transforms.short_side, transforms.antialias
    test_output = short_side if views.full_resolution else transforms.output
    trained = [modality.name for modality in chosen] if "train" in data.splits else []
    make = functools.partial(
        ClipDataset,
        modalities=list(chosen),
        heads=data.heads,
        opener=SourceOpener(cfg.data.decoder, cache, decoded(cfg), _reducible(cfg), indexes(cfg), kinds),
        seed=cfg.draw_seed,
        shared=sampling.shared,
        independent=independent(sampling.mode, sampling.policy),
        span_margin=cfg.data.span_margin,
        mirrored=data.mirrored if transforms.mirror_labels else {},
        missing=cfg.data.missing,
        interval_ends=cfg.data.interval_ends,
    )
    count = views.clips * views.crops
    _check_segments(cfg)
    try:
        starts = _starts(cfg)
        crops: dict[str, Geometries] = {
            "train": training_crop(cfg.plain("transforms"), trained),
            "val": FixedCrops(TestGeometry(transforms.output, short_side, 1, antialias=antialias)),
            "test": FixedCrops(TestGeometry(test_output, short_side, views.crops, views.crop_rule, antialias)),
        }
    except ValueError as error:
        raise UserError(str(error)) from None
    return {
        split: make(
            records=stored(data.splits[split]),
            starts=starts[split],
            geometries=crops[split],
            replace=split == "train",
            clip_labels=cfg.data.labels == "clip" and split == "train",
            views={"train": sampling.clips, "val": sampling.val_clips, "test": count}[split],
        )
        for split in SPLITS
        if data.splits.get(split)
    }


def _starts(cfg: Settings) -> dict[str, Starts]:
    """Where clips begin, per split."""
    draw, views = cfg.sampling, cfg.views
    drawn = (draw.num_segments, draw.mode, draw.dense_length, draw.policy, draw.stride)
    clips = (views.uniform, views.dense, views.dense_length, views.policy, views.strided, views.stride)
    return {
        "train": TrainTemporalSampler(*drawn, draw.clips),
        "val": ValTemporalSampler(*drawn, draw.val_clips),
        "test": ViewsTemporalSampler(draw.num_segments, *clips, views.segments),
    }


def _check_segments(cfg: Settings) -> None:
    """Raises:
    UserError: several segments are asked for where clips are no segments.
    """
    draw, views = cfg.sampling, cfg.views
    if draw.mode != "segments" and max(draw.clips, draw.val_clips) > 1:
        raise UserError(
            f"sampling.clips={draw.clips}, sampling.val_clips={draw.val_clips}: sampling={draw.mode} has one clip of a "
            "video; use sampling=segments"
        )
    if views.segments and views.uniform + views.dense + views.strided:
        raise UserError("views.segments stands alone: set views.uniform, views.dense and views.strided to 0")
    if draw.mode == "segments" and not views.segments and cfg.test:
        log.warning(
            "views=%s: clips of test are no segments of %d windows %d apart, as in training; use views=segments10",
            *(views.name, draw.num_segments, draw.stride),
        )


def loader_settings(cfg: Settings) -> LoaderSettings:
    """How loaders work; more workers than cores are a line in the log.

    Raises:
        UserError: a number is out of range.
    """
    if cfg.data.workers > cores():  # torch says it too, per loader and twice: see quieten_libraries
        log.warning("data.workers=%d: there are %d cores here; fewer workers may be faster", cfg.data.workers, cores())
    return LoaderSettings(cfg.data.batch_size, cfg.data.eval_batch_size, cfg.data.workers, timeout=cfg.loading.timeout)


def check_memory(cfg: Settings, datasets: Mapping[str, ClipDataset], ranks: int) -> None:
    """Args:
        ranks: processes on this machine.

    Raises:
        UserError: loading would take more memory than there is; see :func:`mml_lightning.data.loading.memory.check`.
    """
    batches = {split: max(1, int(cfg.data.eval_batch_size) // dataset.views) for split, dataset in datasets.items()}
    if "train" in batches:
        batches["train"] = int(cfg.data.batch_size) // (1 if cfg.placement == "peer" else ranks)
    cache = int(cfg.data.cache_mb) * 2**20 if cfg.data.cache == "ram" else 0
    held = int(cfg.trainer.accumulate_grad_batches) - 1 if cfg.data.missing == "mask" else 0
    memory.check(datasets, batches, int(cfg.data.workers), ranks, cache, cfg.loading.memory_gb, held)
