"""The settings with which networks are used outside of their run: those of the run, as far as they decide scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.config import guard, resolvers
from mml_lightning.config.compose import ComposeErrors, changed, compose
from mml_lightning.config.made_by import overrides_beside
from mml_lightning.config.saved_overrides import DATA, PLACES, key_of, quoted
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.utils.errors import UserError

log = logging.getLogger(__name__)

TOLD = ("sampling", "transforms")  # groups that weights tell themselves


def settings(ckpt: str, typed: Sequence[str], peers: Sequence[str] | None) -> tuple[Settings, list[str], bool]:
    """Settings as `eval.py ckpt=...` has them, the overrides they are made of, and whether a run has told them.

    Where the run wrote and where its videos lay counts only as far as files are trusted with that: nothing is read
    there.

    Args:
        typed: overrides that win.
        peers: networks that are asked for; of an alias their modalities.

    Raises:
        UserError: there is nothing, or a word is wrong.
    """
    resolvers.register()
    guard.install()
    path = Path(ckpt).expanduser()
    if (path / "preprocess.json").is_file():
        raise UserError(
            f"{ckpt} is an exported network: run its infer.py, or give the run or the weights it is made of"
        )
    elsewhere = [f"{key}=" for key in (*PLACES, *DATA)]  # what is refused of these is left out
    saved = overrides_beside(path, [*typed, *elsewhere])
    words = [*(saved or []), *typed]
    if saved is None and not path.exists() and "/" not in ckpt and path.suffix not in (".pt", ".ckpt"):
        words += [f"modality=[{','.join(peers)}]"] if peers else []  # an alias stands for a network of each
    words.append(quoted("ckpt", path if path.exists() else ckpt))
    try:
        cfg = compose("eval", words)
    except UserError:
        raise
    except ComposeErrors as error:
        reason = " ".join(str(error).split())[:200]
        of_run = f" or in the settings of {ckpt}" if saved else ""
        raise UserError(f"{reason}; fix the overrides{of_run}") from None
    check_values(cfg)
    return cfg, words, saved is not None


def chosen(entries: Mapping[str, Mapping[str, Any]], peers: Sequence[str] | None, ckpt: str) -> dict[str, Any]:
    """The entries of `peers`, in this order; all where none is named.

    Raises:
        UserError: one is not there.
    """
    if not peers:
        return dict(entries)
    for name in peers:
        if name not in entries:
            raise UserError(f"{ckpt} has no network {name}; it has {', '.join(entries)}")
    return {name: entries[name] for name in peers}


def refuse_other_shift(entries: Mapping[str, Mapping[str, Any]], words: Sequence[str]) -> None:
    """A network stays what it was trained as: what is typed of its temporal shift must be that.

    Raises:
        UserError: it is another.
    """
    said = {key_of(word): word.partition("=")[2].strip().lower() for word in words}
    for name, entry in entries.items():
        trained, modality = entry["arch"].get("shift"), entry["modality"]["name"]
        alone = any(key == f"backbone.{modality}" or key.startswith(f"backbone.{modality}.") for key in said)
        key = f"backbone.{modality}.net.shift" if alone else "backbone.net.shift"
        if trained is not None and said.get(key, told := str(trained).lower()) != told:
            raise UserError(
                f"{key}={said[key]}: {name} was trained with shift={told}, which its weights need; leave it out, or "
                f"train another network with {key}={said[key]}"
            )


def as_trained(cfg: Settings, entries: Mapping[str, Mapping[str, Any]], typed: Sequence[str]) -> Settings:
    """With the sampling and the crops that the weights tell, where nothing else does; what is typed stays.

    Raises:
        UserError: the networks were trained with different ones, or a value is wrong.
    """
    said: dict[str, Any] = {}
    kept = {key_of(word) for word in typed}
    for name, entry in entries.items():
        for group in TOLD:
            told = entry["provenance"].get(group)
            if not isinstance(told, Mapping):
                log.warning(
                    "%s does not store its %s: using that of %s.yaml", name, group, cfg.plain(group).get("mode")
                )
                continue
            for key in cfg.plain(group).keys() & told.keys():
                dotted, value = f"{group}.{key}", told[key]
                if group in kept or dotted in kept or not _plain(value):
                    continue
                if said.setdefault(dotted, value) != value:
                    raise UserError(
                        f"the networks were trained with {dotted}={said[dotted]} and {value}: use them one by one"
                    )
    made = changed(cfg, said)
    check_values(made)
    return made


def without_fusion_of_others(cfg: Settings, taken: Mapping[str, Any], entries: Mapping[str, Any]) -> Settings:
    """Without a fused output where not all networks that were trained to be fused are taken."""
    if cfg.fusion.name == "none" or taken.keys() == entries.keys():
        return cfg
    log.warning("fusion=%s is of %s: without all of them there is no fused output", cfg.fusion.name, ", ".join(entries))
    return changed(cfg, {"fusion.name": "none"})


def _plain(value: Any) -> bool:
    """Whether a value of a file looks nothing up and calls nothing."""
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "${" not in value)
