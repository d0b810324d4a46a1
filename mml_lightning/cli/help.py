"""The text of `--help`: every group of conf/ with its options and the first comment of each file.

Read from the files themselves: Hydra's own help composes and copies all of conf/ for the same list, which takes most of
a second.
"""

from __future__ import annotations

from pathlib import Path

from mml_lightning.utils.program import command

HEADER = """\
Mutual Modality Learning: several modalities of one video are one sample, several networks one training run.

  python train.py                                     cross-entropy on rgb, embedded demo data
  python train.py stage=mml modality=[rgb,flow]       two networks teach each other
  python train.py stage=mml modality=[rgb,flow] init=scratch backbone.flow=i3d_tiny    another network for flow
  python train.py pipeline=mml                        CE -> ML -> MML, finished steps are skipped
  python train.py -m stage=mml modality=[rgb,flow] init=scratch,ce seed=0,1,2
  python train.py setup=finetune data.index=my_videos.csv   your own videos, from ImageNet weights
  python train.py resume=multirun/single/<run>        continue a run
  python eval.py ckpt=multirun/single/<run> views=uniform2
  mml report multirun/sweep/<sweep>                   the table of a sweep

zsh needs quotes: 'modality=[rgb,flow]'. -m sweeps over comma-separated values.

Choices (group=option; the first comment of each file)
"""
FOOTER = """
Any value can be set (optimizer.lr=0.1): python train.py --cfg job prints the composed config,
python train.py --hydra-help lists Hydra's options. All of these files: {conf}
"""
INTERNAL = ("hydra", "paths")


def text(conf: Path) -> str:
    """The help of train.py and eval.py, with the words that are typed here."""
    lines = []
    for group in sorted(folder for folder in conf.iterdir() if folder.is_dir() and folder.name not in INTERNAL):
        lines.append(f"\n{group.name}=")
        options = sorted(group.glob("*.yaml"))
        width = max((len(option.stem) for option in options), default=0)
        lines += [f"  {option.stem:<{width}}  {_first_comment(option)}".rstrip() for option in options]
    told = HEADER + "\n".join(lines).lstrip("\n") + "\n" + FOOTER.format(conf=conf)
    return told.replace("python train.py", command()).replace("python eval.py", command("eval"))


def _first_comment(file: Path) -> str:
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")
