"""Pipelines and tables: all runs that a method or a table needs in one command, finished ones skipped.

Which run needs which follows from their configs: a run makes files of the zoo, and others start from them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mml_lightning import report
from mml_lightning.config import compose, data
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.engine.recipe import warn_of_toy
from mml_lightning.pipelines import process_pool, reuse
from mml_lightning.pipelines.ahead import Ahead
from mml_lightning.pipelines.plan import PlannedRun, plan_runs, require_origins, seeds_of
from mml_lightning.pipelines.progress import BLOCKED, DONE, FAILED, REUSED, RUNNING, WAITING, PipelineState, duration
from mml_lightning.pipelines.reuse import Reuse
from mml_lightning.runs import next_steps, tracking
from mml_lightning.runs import result as runs_result
from mml_lightning.runs.result import RunResult, describe_error
from mml_lightning.utils import terminal
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import RunsFailed, UserError
from mml_lightning.utils.plain_text import VisibleFormatter
from mml_lightning.utils.process import say
from mml_lightning.utils.program import command
from mml_lightning.utils.result_file import read_result, write_json
from mml_lightning.zoo.entries import homes

log = logging.getLogger(__name__)

LOG = "train.log"
LINE = terminal.WIDTH - len("[12:00:00] ")
QUIET = 6  # from so many runs on, what a run says is in its own log only


def pipeline(cfg: Settings, overrides: Sequence[str]) -> dict[str, Any]:
    """Do all runs of a job; those whose networks are in the zoo, from the same config, are skipped.

    Returns the content of its result.json.

    Raises:
        UserError: something is wrong that can be known before anything is written.
        RunsFailed: some runs failed; all that could go on without them has been done.
    """
    check_values(cfg)
    warn_of_toy(cfg)
    root = Path(cfg.paths.output_dir)
    runs = plan_runs(cfg, overrides)
    known = Reuse()
    check(runs, known)
    state = PipelineState(runs, jobs_of(cfg), reuse.pace(runs[0].cfg), told_to_tables(cfg))
    before = foresee(state, known)
    say([*plan_lines(cfg, state), "", *terminal.plain(state.table(), LINE).splitlines(), ""])
    if cfg.pipeline.dry:
        runs_result.discard_unstarted(root)
        return {}
    fields = {"name": cfg.name, "setup": cfg.setup.name, "pipeline": cfg.pipeline.name, "seed": seeds_of(cfg)[0]}
    try:
        with RunResult(root, is_first_rank(), **fields, overrides=list(overrides)) as parent:
            for number, result in before.items():
                take_over(state.runs[number], result)
            execute(state, root, known, cfg.pipeline.ahead)
            complain(root, state)
    finally:  # the table shows how the pipeline itself has ended
        if is_first_rank():
            tell(root, state)
            if cfg.logger.wandb:
                report.log_finished(root, report.Place(cfg.logger.project, cfg.logger.entity, cfg.logger.mode))
    say(closing(cfg, root, state))
    return parent.fields


def closing(cfg: Settings, root: Path, state: PipelineState) -> list[str]:
    """Where the networks of the last training run are, and what can be typed next."""
    trained = [planned for planned in state.runs if not planned.views]
    if not trained:
        return []
    last = trained[-1].folder
    places = homes(told) if (told := read_result(last) or {}).get("reused") else [last / "peers"]
    weights = sorted(file for place in places for file in place.glob("*.pt"))
    return next_steps.after_pipeline(cfg, root, last, weights)


def told_to_tables(cfg: Settings) -> dict[str, Any]:
    """What the tables need beside the results of the runs."""
    return {"setup": cfg.setup.name, "base": str(cfg.init.base), "tables": cfg.plain("tables")}


def jobs_of(cfg: Settings) -> int:
    """Raises:
    UserError: each job of `pipeline.jobs` would have several processes itself.
    """
    jobs = cfg.pipeline.jobs
    if jobs > 1 and (cfg.trainer.devices not in (1, "auto") or cfg.trainer.num_nodes != 1):
        raise UserError(f"pipeline.jobs={jobs} gives each run one device; use trainer.devices=1, or pipeline.jobs=1")
    return jobs


def check(runs: Sequence[PlannedRun], known: Reuse) -> None:
    """Find in the first second what would end a run after days.

    Raises:
        UserError: a run starts from weights that won't be there, or the data can't be read or have no full batch.
    """
    require_origins([planned for planned in runs if not planned.views], known.settle_early)
    data.check_batch(runs[0].cfg, known.dataset(runs[0].cfg), 1)


def foresee(state: PipelineState, known: Reuse) -> dict[int, dict[str, Any]]:
    """Mark the runs that were done before, as far as that can be told before the others are; returns their results."""
    found: dict[int, dict[str, Any]] = {}
    for number, planned in enumerate(state.runs):
        possible = all(state.entries[n].state == REUSED for n in state.needs[number])
        if possible:
            hand_over(state, number, found)
        result = known.finished(planned.cfg, planned.typed) if possible else None
        if result is not None:
            state.set(number, REUSED)
            found[number] = result
    return found


def hand_over(state: PipelineState, number: int, found: Mapping[int, Mapping[str, Any]]) -> None:
    """Tell a run which networks it starts from: those of the runs of this pipeline, whatever else the zoo holds.

    Args:
        found: results of runs that were done before and whose directories do not tell yet.
    """
    for maker in sorted(state.needs[number]):
        folder = state.runs[maker].folder
        result = found.get(maker) or read_result(folder) or {}
        for place in homes(result) or [folder]:
            state.runs[number].take(place)


def plan_lines(cfg: Settings, state: PipelineState) -> list[str]:
    """What will be done and what it will cost."""
    seeds = seeds_of(cfg)
    each = f" x {len(seeds)} seeds" if len(seeds) > 1 else ""
    reused, left = state.count(REUSED), state.networks_left()
    lines = [
        f"pipeline  {cfg.name}: {len(state.runs) // len(seeds)} runs{each}; {reused} already done, "
        f"{state.count(WAITING)} to do ({left} networks)"
    ]
    seconds = state.seconds_left()
    if left and seconds is not None:
        lines += [f"cost      about {duration(seconds)}: a network took {duration(state.pace or 0)} in earlier runs"]
    elif left:
        lines += ["cost      known after the first run"]
    return lines


def execute(state: PipelineState, root: Path, known: Reuse, prepared: bool) -> None:
    """Do the runs in an order that lets each start from the others' networks; a failed one blocks those it is for.

    Args:
        prepared: what later runs read is made while one runs, where runs do not stand side by side.
    """
    if state.jobs == 1:
        quiet = len(state.runs) >= QUIET
        with Ahead(state, known, prepared) as ahead:
            while (number := state.ready()) is not None:
                if not begin(state, number, root, known):
                    ahead.before(number)
                    end(state, number, root, attempt(state.runs[number], quiet))
        return
    for planned in state.runs:
        if planned.cfg.trainer.num_threads is None:
            planned.cfg = compose.changed(planned.cfg, {"trainer.num_threads": 1})
    fill_flow(state, known)
    devices = process_pool.gpus(str(state.runs[0].cfg.trainer.accelerator))
    with process_pool.Workers(state.jobs, do_run, devices) as pool:
        while True:
            while pool.idle and (number := state.ready()) is not None:
                if not begin(state, number, root, known):
                    pool.start(number, state.runs[number].cfg, state.runs[number].typed)
            if not state.count(RUNNING):
                return
            number, error = pool.next()
            end(state, number, root, error)


def begin(state: PipelineState, number: int, root: Path, known: Reuse) -> bool:
    """Mark a run as running; True if there is nothing to do, since it was done before."""
    planned = state.runs[number]
    hand_over(state, number, {})
    result = known.finished(planned.cfg, planned.typed)
    if result is None and not planned.views:
        known.pin(planned)
    state.set(number, RUNNING if result is None else REUSED)
    if result is not None:
        take_over(planned, result)
    else:
        log.info("start     %s", planned.label)
    if is_first_rank():
        save_config(planned)
        state.write(root)
    return result is not None


def take_over(planned: PlannedRun, result: Mapping[str, Any]) -> None:
    """Leave the result of an earlier run in the place of a run that needs not be repeated."""
    log.info("reused    %s: its networks are taken from %s", planned.label, result.get("zoo", planned.folder))
    own = Path(str(result.get("zoo"))) == planned.folder
    if is_first_rank() and not planned.views and not own:  # a measurement lies in the zoo itself
        save_config(planned)
        told = {key: value for key, value in result.items() if key != "settings"}
        write_json(planned.folder / "result.json", {**told, "reused": True})


def end(state: PipelineState, number: int, root: Path, error: str | None) -> None:
    """Mark a run as done, or as failed for a reason."""
    planned = state.runs[number]
    state.set(number, DONE if error is None else FAILED, error or numbers(planned.folder))
    entry = state.entries[number]
    if error is None:
        log.info("done      %s in %s: %s", planned.label, duration(entry.seconds or 0), entry.note)
    else:
        log.error("failed    %s: %s", planned.label, error)
    state.ready()  # blocks what can't start any more
    log.info("          %s", state.line())
    if is_first_rank():
        state.write(root)


def attempt(planned: PlannedRun, quiet: bool) -> str | None:
    """Do a run in this process; why it failed, if it did."""
    try:
        with only_in_its_log() if quiet else nullcontext():
            do_run(planned.cfg, planned.typed)
    except Exception as error:
        return describe_error(error)
    return None


def do_run(cfg: Settings, overrides: list[str]) -> None:
    """One run or measurement, with a log in its directory and a result even if it fails before it begins."""
    folder = Path(cfg.paths.output_dir)
    failed: BaseException | None = None
    with own_log(folder / LOG):
        try:
            from mml_lightning.engine import evaluate, train  # they import Lightning, which a plan does not need

            (evaluate.evaluate if cfg.measures_only else train.stage)(cfg, overrides, alone=False)
        except BaseException as error:
            failed = error
            runs_result.record_failure(cfg, overrides, error)
            if isinstance(error, UserError):
                log.error("error: %s", error)
            elif isinstance(error, Exception):
                log.exception("the run failed")
            raise
        finally:
            tracking.close(cfg, failed is not None)


def numbers(folder: Path) -> str:
    """The first metric of every peer of a finished run, of test or else of val."""
    lines = runs_result.result_lines(read_result(folder) or {})
    return " ".join(lines[0].split()) if lines else ""  # test stands before val


def tell(root: Path, state: PipelineState) -> None:
    """Leave the state and the tables of a pipeline that has ended, or was interrupted."""
    for number, entry in enumerate(state.entries):
        if entry.state == RUNNING:
            state.set(number, WAITING, "interrupted; resume= continues from its last checkpoint")
    state.write(root)
    if not any(entry.state in (DONE, REUSED) for entry in state.entries):
        return
    log.info("runs      %s: %s", root / "runs.md", state.line())
    table = report.write(root)
    filled = report.write_filled(root)
    for one in filled:
        log.info("table     %s\n\n%s", root / f"{one.layout.name}.md", terminal.plain(report.filled_markdown(one)))
    if not filled:
        compared = report.write_differences(root, report.collect(root))
        told = terminal.plain(f"{report.markdown(table)}\n{compared}")
        log.info("table     %s\n\n%s", root / "table.md", told)


def complain(root: Path, state: PipelineState) -> None:
    """Raises:
    RunsFailed: some runs failed.
    """
    failed = [(state.runs[number], state.entries[number].note) for number in state.failed()]
    if failed:
        names = ", ".join(planned.label for planned, _ in failed[:5]) + (", .." if len(failed) > 5 else "")
        blocked = f", {state.count(BLOCKED)} more depend on them" if state.count(BLOCKED) else ""
        raise RunsFailed(
            f"{len(failed)} of {len(state.runs)} runs failed ({names}){blocked}; the first: {failed[0][1]} "
            f"({failed[0][0].folder / LOG}); continue with: {command()} resume={root}"
        )


def fill_flow(state: PipelineState, known: Reuse) -> None:
    """Compute the flow that runs side by side would compute twice."""
    from mml_lightning.engine import flow

    for planned, entry in zip(state.runs, state.entries, strict=True):
        cfg = planned.cfg
        chosen = data.modalities(cfg)
        cache = data.flow_cache(cfg, chosen)
        if cache is not None and entry.state == WAITING and not planned.views:
            datasets = data.clip_datasets(cfg, known.dataset(cfg), cache, list(chosen.values()))
            if not cfg.test:
                datasets.pop("test", None)
            flow.flow_filler(cache, datasets, cfg.data.workers)()
            return


def save_config(planned: PlannedRun) -> None:
    """What Hydra leaves for a run of its own."""
    folder = planned.folder / ".hydra"
    compose.save(planned.cfg, folder / "config.yaml")
    compose.save_words(planned.typed, folder / "overrides.yaml")


@contextmanager
def own_log(file: Path) -> Iterator[None]:
    """What is logged meanwhile stands in `file` too."""
    if not is_first_rank():
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(VisibleFormatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def only_in_its_log() -> Iterator[None]:
    """The console and the pipeline's log hear nothing of a run; handlers that are added meanwhile do."""
    handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in handlers:
            handler.setLevel(level)
