"""Overrides that attack, each list as it would stand in a file; {o} is a folder of the victim, {c} the canary."""

from __future__ import annotations

CALL = "{{_target_: shutil.copyfile, src: '{o}/notes.txt', dst: '{c}'}}"
UNPICKLE = ("+evil._target_=torch.load", "+evil.f={o}/evil.pkl", "+evil.weights_only=false")

PAYLOADS: dict[str, tuple[str, ...]] = {
    # the two halves of a call in two arguments, and all ways to reach the node that Hydra calls
    "interpolated callback": (*UNPICKLE, "+hydra.callbacks.evil=${{evil}}"),
    "callback": (f"+hydra.callbacks.evil={CALL}",),
    "forced callback": (f"++hydra.callbacks.evil={CALL}",),
    "callbacks as a whole": (f"hydra.callbacks={{{{table: {CALL}}}}}",),
    "callback by its leaf": (
        "hydra.callbacks.table._target_=shutil.copyfile",
        "+hydra.callbacks.table.src={o}/notes.txt",
        "+hydra.callbacks.table.dst={c}",
    ),
    "group of hydra": ("hydra/callbacks=evil",),
    "group in the place of hydra": ("+optimizer@hydra.callbacks.evil=sgd",),
    "group in the place of hydra, global": ("+experiment@_global_=../../../{o}/evil",),
    "launcher": ("hydra.launcher._target_=os.system",),
    "launcher group": ("hydra/launcher=submitit_local",),
    "sweeper": ("hydra.sweeper._target_=os.system",),
    "with a slash": ("/hydra/callbacks=evil",),
    "with a blank": (f" +hydra.callbacks.evil={CALL}",),
    "with a tab": (f"\t+hydra.callbacks.evil={CALL}",),
    # files that are written
    "log": ("hydra.job_logging.handlers.file.filename={o}/notes.txt",),
    "log class": ("+hydra.job_logging.handlers.x={{class: logging.FileHandler, filename: {o}/notes.txt}}",),
    "log factory": ("+hydra.job_logging.handlers.x={{(): os.system}}",),
    "directory of the run": ("hydra.run.dir={o}/run",),
    "directory of a sweep": ("hydra.sweep.dir={o}/run", "hydra.mode=MULTIRUN"),
    "folder of settings": ("hydra.output_subdir=../../../../outside/run",),
    "root": ("paths.root={o}/root",),
    "root of all": ("paths.root=/",),
    "root with dots": ("paths.root=../../../../outside/root",),
    "root in a table": ("++paths={{root: {o}/root}}",),
    "zoo": ("paths.zoo={o}/zoo",),
    "cache": ("paths.cache={o}/cache", "modality=[flow]"),
    "output": ("paths.output_dir={o}/out",),
    "name": ("name=x/../../../../../../outside/run",),
    "name of dots": ("name='..'", "data.name='..'", "backbone.name='..'"),
    "name of a part": ("stage.name=x/../../../../../../outside/run",),
    "name by an interpolation": ("name=${{oc.env:HOME}}/run",),
    "modality that is a path": ("++modality={{../../../../../outside/x: {{name: rgb, source: frames, channels: 3}}}}",),
    "data that are made": ("data=demo", "data.root={o}/demo"),
    "data that are made beside others": ("data=demo", "data.root={o}"),
    "root that is a number": ("paths.root=12345",),
    "root that is nothing": ("paths.zoo=null", "paths.cache=true"),
    "no places": ("~paths.zoo",),
    "account that is a number": ("logger=wandb", "logger.entity=12345"),
    "data in a number": ("data=demo", "data.root=12345"),
    # environment, folders of configs, trust
    "environment": ("+hydra.job.env_set.PYTHONPATH={o}", "+hydra.job.env_set.LD_PRELOAD={o}/x.so"),
    "search path": ("hydra.searchpath=[{o}/conf]", "experiment=evil"),
    "search path of a package": ("hydra.searchpath=[pkg://evilmod]",),
    "config folder": ("--config-dir={o}/conf", "experiment=evil"),
    "config folder, two words": ("--config-dir", "{o}/conf", "experiment=evil"),
    "config path": ("-cp={o}/conf",),
    "config name": ("--config-name=evil",),
    "sweep": ("-m", "seed=0,1"),
    "option by a path": ("experiment=../../../../../../../../../../..{o}/conf/experiment/evil",),
    "option by an absolute path": ("experiment={o}/conf/experiment/evil",),
    "options by paths": ("modality=[rgb,../../../../../../../../../../..{o}/conf/experiment/evil]",),
    "trust and a reader": (
        "trusted=[shutil]",
        "data.reader={{_target_: shutil.copyfile, src: '{o}/notes.txt', dst: '{c}'}}",
    ),
    "trust, added": ("++trusted=[shutil,pathlib]", "+data.reader._args_=[x]", "data.reader._target_=os.system"),
    "trust in a list": ("trusted.0=os", "data.reader._target_=os.system"),
    # what calls, how, and where it hides
    "reader": ("data.reader={{_target_: pathlib.Path.touch, self: {c}}}",),
    "writer of ours": ("data.reader={{_target_: mml_lightning.utils.result_file.write_json, path: {c}, value: 1}}",),
    "imported by ours": (
        "data.reader={{_target_: mml_lightning.runs.result.subprocess.run, args: [touch, {c}]}}",
        "~data.reader.index",
    ),
    "deep in a list": (
        "+data.reader.more=[[{{a: [{{_target_: shutil.copyfile, src: '{o}/notes.txt', dst: '{c}'}}]}}]]",
    ),
    "partial": ("+optimizer.optimizer._partial_=false", "optimizer.optimizer._target_=os.system"),
    "arguments": ("+schedule.factor._args_=['touch {c}']", "schedule.factor._target_=os.system"),
    "convert": ("+data.reader._convert_=object",),
    "recursive": ("+data.reader._recursive_=true",),
    # look-ups
    "environment in a name": ("data.index=${{oc.env:HOME}}/x.csv",),
    "quoted look-up": ("data.index='${{oc.env:HOME}}/x.csv'",),
    "escaped look-up": ("data.index=$\\{{oc.env:HOME\\}}",),
    "half escaped look-up": ("data.index=\\${{oc.env:HOME}}",),
    "nested look-up": ("+a=HOME", "data.index='${{oc.env:${{a}}}}'"),
    "look-up in a list": ("tags=['${{oc.env:HOME}}']",),
    "look-up as a key": ("+a={{$\\{{b\\}}: 1}}",),
    "look-up that makes a table": ("+data.reader.x='${{oc.decode:\"{{_target_: os.system}}\"}}'",),
    # Hydra's grammar
    "range": ("seed=range(0,1000000000000)",),
    "function": ("seed=sort(range(0,1000000000))",),
    "choice": ("seed=choice(0,1)",),
    "glob": ("data=glob(*)",),
    "commas": ("seed=0,1",),
    "deep lists": ("+a=" + "[" * 5000 + "]" * 5000,),
    "long": ("+a=" + "x" * 50_000,),
    "line": ("name=a\nb",),
    "escape": ("name='\x1b]0;pwned\x07'",),
    "empty": ("",),
    "equals": ("=",),
    "nothing of it": ("~hydra",),
    # what is said and sent
    "account": ("logger=wandb", "logger.entity=somebody"),
    "command of an alias": ("aliases.ce.make=['hydra.run.dir={o}']", "init=ce"),
    "catalogue": (
        "+catalogue.x={{stage: ce, set: ['trusted=[shutil]', 'data.reader._target_=os.system']}}",
        "+tables.t={{title: t, columns: [a], rows: {{r: [x/rgb]}}}}",
    ),
}


def filled(name: str, outside: object, canary: object) -> list[str]:
    """The overrides of one payload."""
    return [word.format(o=outside, c=canary) for word in PAYLOADS[name]]
