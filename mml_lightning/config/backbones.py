"""A network of its own for the peers of a modality, beside the one of all others.

    backbone=tsm_resnet50 backbone.flow=tsm_resnet18       another option of conf/backbone for the peers of flow
    backbone.flow.net.dropout=0.8                          a setting of it; without an option, of a copy of `backbone`

A file of configs chooses an option as `backbone: {flow: tsm_resnet18}`, which holds where the run has flow; what is
typed wins, and `backbone.flow=null` takes it back. Hydra can't compose an option at a place that a modality names, so
the words that are typed go to a place of their own (:func:`staged`), and :func:`place` loads what they choose. Imports
no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.config.groups import Backbone
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

PLAIN = ("name", "net")  # of the network of all peers
OPTION, SETTINGS, ADDED, TYPED = "option", "settings", "added", "_typed_"
WORD = re.compile(rf"(?P<sign>\+*)backbone\.(?!(?:{'|'.join(PLAIN)})[.=])(?P<modality>[\w-]+)(?P<rest>\.[^=]+)?=")


def of(cfg: Settings, modality: str) -> Backbone:
    """The network of the peers of a modality."""
    return cfg.backbone.peers.get(modality, cfg.backbone)


def own(cfg: Settings) -> list[str]:
    """The modalities with a network of their own."""
    return list(cfg.backbone.peers)


def word(cfg: Settings, modality: str) -> str:
    """What chooses the network of a modality: `backbone`, or `backbone.flow`."""
    return f"backbone.{modality}" if modality in cfg.backbone.peers else "backbone"


def names(cfg: Settings, modalities: Iterable[str] | None = None) -> dict[str, str]:
    """{modality: name of its network}, by default of all modalities of a run."""
    return {m: str(of(cfg, m).name) for m in (cfg.modality if modalities is None else modalities)}


def label(cfg: Settings, modalities: Iterable[str] | None = None) -> str:
    """The name of the one network, or rgb=tsm_resnet50, flow=tsm_resnet18."""
    return joined(names(cfg, modalities)) or str(cfg.backbone.name)


def joined(networks: Mapping[str, str]) -> str:
    """{modality: name} in a word, the name alone where it is the same for all."""
    if len(set(networks.values())) == 1:
        return next(iter(networks.values()))
    return ", ".join(f"{modality}={name}" for modality, name in networks.items())


def identity(values: Mapping[str, Any]) -> Any:
    """What decides the networks of a plain config, however it was said: one for all, or {modality: network}."""
    backbone, modalities = values["backbone"], [name for name in values["modality"] if name not in PLAIN]
    own = {m: {k: v for k, v in backbone[m].items() if k != OPTION} for m in modalities if backbone.get(m) is not None}
    general = {key: value for key, value in backbone.items() if not _is_network(key, value)}
    each = {name: own.get(name, general) for name in values["modality"]}
    networks = list(each.values())
    return networks[0] if networks and all(one == networks[0] for one in networks) else each or general


def _is_network(key: str, value: Any) -> bool:
    return key not in PLAIN and isinstance(value, Mapping) and OPTION in value


def settings(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The arguments of the networks of a plain config, each network once."""
    found = identity(values)
    return [found["net"]] if isinstance(found.get("name"), str) else [network["net"] for network in found.values()]


def words_of(making: Sequence[str], cfg: Settings, modality: str, taken: str, looked_at: Collection[str]) -> list[str]:
    """The words of a command that makes the first weights of a peer: the network that is taken has that peer's shape.

    Args:
        making: the command, with the words of the present one about networks of modalities.
        cfg: of the present run.
        modality: of the peer. taken: of the network that it starts from. looked_at: those of the run that is made.
    """
    own: dict[str, list[str]] = {}
    rest = []
    for word in making:
        if match := WORD.match(word):
            own.setdefault(match["modality"], []).append(word)
        else:
            rest.append(word)
    found = []
    for name in looked_at:
        source = modality if name == taken else name
        if source == name:
            found += own.get(name, [])
            continue
        chosen = cfg.backbone.peers.get(source)
        if chosen is not None or name in cfg.backbone.peers:
            found.append(f"backbone.{name}={(chosen and chosen.option) or 'null'}")
            typed = [word for word in own.get(source, []) if WORD.match(word)["rest"]]  # type: ignore[index]
            found += [word.replace(f"backbone.{source}.", f"backbone.{name}.", 1) for word in typed]
    last = len(rest) - 1 if rest and rest[-1].startswith("seed=") else len(rest)
    return [*rest[:last], *found, *rest[last:]]


def staged(words: Sequence[str], modalities: Collection[str]) -> list[str]:
    """The words of a command line as Hydra can compose them.

    Args:
        modalities: all that there are.

    Raises:
        UserError: a word about the network of something else.
    """
    return [_staged(word, modalities) for word in words]


def _staged(word: str, modalities: Collection[str]) -> str:
    match = WORD.match(word)
    if match is None:
        return word
    name, rest = match["modality"], match["rest"]
    if name not in modalities:
        if match["sign"]:  # a key of the user's own
            return word
        key = f"backbone.{name}{rest or ''}"
        known = [*(f"backbone.{one}" for one in modalities), *(f"backbone.{one}" for one in PLAIN)]
        raise UserError(
            f"unknown setting {key}{_meant(f'backbone.{name}', known)}; backbone.<modality> is one of {known}"
        )
    place = f"{ADDED if match['sign'] else SETTINGS}{rest}" if rest else OPTION
    return f"++backbone.{TYPED}.{name}.{place}={word[match.end() :]}"


def chosen(cfg: DictConfig) -> bool:
    """Whether a config as Hydra has composed it says more than one network for all."""
    node = cfg.get("backbone")
    return isinstance(node, DictConfig) and not set(node) <= set(PLAIN)


def place(
    cfg: DictConfig, load: Callable[[str], DictConfig], options: Collection[str], modalities: Collection[str]
) -> None:
    """Put the networks that words and files choose for single modalities where :func:`of` looks for them.

    Args:
        cfg: as Hydra has composed it from :func:`staged` words.
        load: an option of the group `backbone`, as composed. options: all that there are.
        modalities: all that there are.

    Raises:
        UserError: an unknown option or setting, or what was typed is for a modality that is not part of the run.
    """
    if not isinstance(cfg.get("modality"), DictConfig):
        return  # refused by what looks at the whole config
    content: Any = OmegaConf.to_container(cfg.backbone, resolve=False)
    typed = content.pop(TYPED, {})
    if not isinstance(typed, Mapping) or not all(isinstance(words, Mapping) for words in typed.values()):
        raise UserError(f"unknown setting backbone.{TYPED}: remove it")
    known, used = {*modalities, *cfg.modality}, set(map(str, cfg.modality))
    each = {m: {OPTION: value} for m, value in content.items() if m in known and m not in PLAIN}
    general = {key: value for key, value in content.items() if key not in each}
    if stray := next((k for k, v in general.items() if k not in PLAIN and isinstance(v, str) and v in options), None):
        raise UserError(f"backbone.{stray}={general[stray]}: no modality {stray}{_meant(stray, known)}")
    pipeline = cfg.get("pipeline")  # its runs look at modalities of their own
    several = bool((isinstance(pipeline, DictConfig) and pipeline.get("runs")) or cfg.get("tables"))
    for modality, words in typed.items():
        if modality not in used and not several:
            raise UserError(
                f"backbone.{modality} is set, but the run uses {', '.join(sorted(used))} only: remove it, or "
                f"use modality=[{','.join([*map(str, cfg.modality), modality])}]"
            )
        each[modality] = {**each.get(modality, {}), **words}
    with open_dict(cfg):
        cfg.backbone = OmegaConf.create(general)
        for modality, words in each.items():
            network = _network(modality, words, general, load, options)
            if network is not None:
                cfg.backbone[modality] = network


def _network(
    modality: str,
    own: Mapping[str, Any],
    general: Mapping[str, Any],
    load: Callable[[str], DictConfig],
    options: Collection[str],
) -> DictConfig | None:
    """The network of one modality; None if it is that of all."""
    option, changes, added = (own.get(key) for key in (OPTION, SETTINGS, ADDED))
    if option is None and not changes and not added:
        return None
    if option is not None and (not isinstance(option, str) or option not in options):
        told = _meant(str(option), options) if not isinstance(option, Mapping | list) else ""
        raise UserError(f"backbone.{modality}={option} is unknown{told}; use one of {sorted(options)}")
    base = OmegaConf.create(dict(general)) if option is None else load(option)
    content: Any = OmegaConf.to_container(base, resolve=False)
    if not all(key in content for key in PLAIN):
        raise UserError(f"backbone.{modality}={option}: an option of conf/backbone has a name and a net")
    made = OmegaConf.create({OPTION: option, **content})
    OmegaConf.set_struct(made, True)
    try:
        made.merge_with(changes or {})
    except OmegaConfBaseException as error:
        key = f"backbone.{modality}.{error.full_key or ''}".rstrip(".")
        alike = [
            f"backbone.{modality}.{one}" for one in dotted(content) if "_target_" not in one and "_partial_" not in one
        ]
        raise UserError(
            f"unknown setting {key} of {option or 'its network'}{_meant(key, alike)}; there are {', '.join(alike)} "
            f"(to add a key: +{key}=...)"
        ) from None
    OmegaConf.set_struct(made, None)
    made.merge_with(added or {})
    return made


def as_typed(error: HydraException, written: Mapping[str, str]) -> HydraException:
    """An error of Hydra that names what was typed.

    Args:
        written: {word of :func:`staged`: as it was typed}.
    """
    if isinstance(error, OverrideParseException):
        return OverrideParseException(written.get(error.override, error.override), error.message)
    text = str(error)
    for word, typed in written.items():
        text = text.replace(word, typed)
    return error if text == str(error) else HydraException(text)


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of the leaves of plain values."""
    found: list[str] = []
    for key, value in values.items():
        found += dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found


def _meant(word: str, known: Iterable[str]) -> str:
    alike = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {alike[0]}?)" if alike else ""
