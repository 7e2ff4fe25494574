"""Several runs under one folder, as the papers' tables need them: trained, scored, and found again.

    <output>/<run>/             the workdir of each run, as of train.py and score.py
    <output>/feature_cache/     that all of them share
    <output>/<table>.json .md .tex .html   the table, made anew after each run

A run that is finished is not made again, and one that fails or crashes does not keep the others from it. Several
processes may work in one output, each at runs of its own: a run is locked while it is trained and scored, and the
output while a table is made of all that is there. Runs whose geometry would be estimated from the same images with
the same settings share it: the first that needs a category's lends its estimate to the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvead_jax.comparison.defect_kinds import auroc_by_views
from mvead_jax.comparison.document import Table
from mvead_jax.comparison.html_page import html
from mvead_jax.comparison.latex import latex
from mvead_jax.comparison.paper_tables import Outcome
from mvead_jax.config.io import differences, from_dict
from mvead_jax.config.schema import Config
from mvead_jax.evaluation.protocols import digest as evaluation_digest
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.score_files import read_images
from mvead_jax.evaluation.sealed_metrics import read_sealed
from mvead_jax.jobs.estimate_geometry import geometry_origin, geometry_path, uses_geometry
from mvead_jax.jobs.events import read_events
from mvead_jax.jobs.inputs import load_method_backbone, open_index, split_features
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.provenance import config_digest
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime.disk import folder_bytes
from mvead_jax.runtime.errors import Stopped, UserError, printable
from mvead_jax.runtime.files import locked, make_folder, read_json, whole, write_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run of a table. name: of its folder."""

    name: str
    config: Config


def perform(
    runs: Sequence[Run],
    output: Path,
    after_each: Callable[[Mapping[str, str]], None],
    *,
    family: Sequence[Run] = (),
    warm: bool = False,
) -> dict[str, str]:
    """Train and score every run that is not finished; one that fails or crashes does not keep the others from it.

    Args:
      output: holds the workdirs.
      after_each: called with the errors so far, by name, after each run.
      family: more runs of the same table, which may lend their geometry.
      warm: compute features before training, so that its time does not count them.

    Returns:
      The errors of the runs that failed, by name.

    Raises:
      UserError: a run was made with another config; the data set is not there.
      Stopped: SIGTERM came during a training.
    """
    for run in runs:
        _check_same(run, output)
    failed: dict[str, str] = {}
    unfinished = [run for run in runs if not is_finished(run, output)]
    if unfinished:
        open_index(unfinished[0].config)  # what is wrong with the data is wrong for all
    for number, run in enumerate(runs, 1):
        head = f"row {number} of {len(runs)}: {run.name}"
        if run not in unfinished:
            log.info("%s: finished before", head)
            continue
        log.info("%s", head)
        workdir = output / run.name
        begin = time.monotonic()
        try:
            _borrow_geometry(run, [*runs, *family], output)
            if warm:
                _warm(run.config, workdir)
            train(run.config, workdir)
            score(workdir)
            log.info("%s: done in %.0f s", head, time.monotonic() - begin)
        except UserError as error:
            lines = str(error).splitlines()
            failed[run.name] = lines[0]
            log.error("%s: failed: %s", head, " / ".join(line.strip() for line in lines))
        except Stopped:
            raise
        except Exception as error:  # a bug, or a device without the memory: the other runs may fit
            failed[run.name] = crash_words(error)
            log.exception("%s: crashed", head)
        after_each(failed)
    after_each(failed)
    return failed


def crash_words(error: Exception) -> str:
    """Return what is said in one line of an error that no user could mend."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {printable(lines[0])}" if lines else type(error).__name__


def is_trained(run: Run, output: Path) -> bool:
    """Return whether training of this run, with this config, has ended."""
    workdir = output / run.name
    try:
        return Manifest(workdir).covers(workdir / "config.json") and not _changes(run, output)
    except UserError:
        return False


def is_finished(run: Run, output: Path) -> bool:
    """Return whether this run is trained and scored: by this config, and by the models that are there now."""
    workdir = output / run.name
    if not is_trained(run, output) or not (workdir / "scores" / "metrics.json").exists():
        return False
    words = read_metrics(workdir)["protocol"]
    models = Manifest(workdir).digest(workdir / "models")
    own = resolve(run.config.eval.protocol, run.config.eval, run.config.data.image_size)
    expected = {
        "config_digest": config_digest(_trained(run, output)),
        "models_digest": models,
        "evaluation_digest": evaluation_digest(own, run.config.eval),
    }
    return all(words.get(key) == value for key, value in expected.items())


def outcome(run: Run, output: Path, error: str | None = None) -> Outcome:
    """Return what a run has come to, from its workdir."""
    if not is_finished(run, output):
        return Outcome(error=error)
    workdir = output / run.name
    machine = read_json(workdir / "environment.json", "of train.py")
    events = read_events(workdir)
    last = max((at for at, event in enumerate(events) if event["stage"] == "model"), default=0)
    seconds = {event["name"]: event["seconds"] for event in events if event["stage"] == "model"}
    metrics = read_metrics(workdir)
    return Outcome(
        metrics=metrics,
        commit=machine["commit"],
        devices=tuple(machine["devices"]),
        seconds=sum(seconds.values()) if seconds else None,
        by_views=auroc_by_views(read_images(workdir / "scores")),
        megabytes=folder_bytes(workdir / "models") / 1e6,
        resumed=sum(event["stage"] == "start" for event in events[:last]) > 1,
        error=error,
    )


def write_table(table: Table, output: Path) -> None:
    """Write <output>/<table>.json, .md, .tex and .html."""
    write_json(output / f"{table.name}.json", table.content)
    write_text(output / f"{table.name}.md", table.text)
    write_text(output / f"{table.name}.tex", latex(table))
    write_text(output / f"{table.name}.html", html(table))


def update_tables(make: Callable[[], Sequence[Table]], output: Path) -> Sequence[Table]:
    """Make tables of what is there, and write them before another process can have newer ones; return them."""
    make_folder(output)
    with locked(output, wait=True):
        tables = make()
        for table in tables:
            write_table(table, output)
    return tables


def backbone_milliseconds(config: Config, rounds: int = 5) -> float:
    """Return the time of one image through the backbone on this device, median of `rounds` full batches."""
    backbone = load_method_backbone(config)
    side, count = config.data.image_size, backbone.images_at_a_time(config.backbone.batch_size)
    images = jax.device_put(np.zeros((count, side, side, 3), np.float32))
    jax.block_until_ready(backbone(images))
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(backbone(images))
        seconds.append(time.perf_counter() - begin)
    return 1000 * float(np.median(seconds)) / count


def read_metrics(workdir: Path) -> dict[str, Any]:
    """Return the content of a workdir's scores/metrics.json.

    Raises:
      UserError: no such file, or one without a protocol.
    """
    path = workdir / "scores" / "metrics.json"
    found = read_sealed(path, "a workdir that mvead score has scored")
    if not isinstance(found, dict) or not isinstance(found.get("protocol"), dict):
        raise UserError(f"{path}: not written by score.py; score again")
    return found


def _check_same(run: Run, output: Path) -> None:
    """Raise UserError if something was trained in the run's folder with another config."""
    if not (output / run.name / "manifest.json").exists():
        return
    if changed := _changes(run, output):
        where = output / run.name / "config.json"
        raise UserError(f"{where}: made with another config ({'; '.join(changed)}); take another --output")


def _changes(run: Run, output: Path) -> list[str]:
    trained = _trained(run, output)
    # Without a trusted pair of views a run is that of another method (trust.py).
    return [] if trained == run.config.without_trust() else differences(trained, run.config)


def _trained(run: Run, output: Path) -> Config:
    """Return the config that a run's workdir was trained with."""
    path = output / run.name / "config.json"
    return from_dict(read_json(path, "a workdir of train.py"), str(path))


def _borrow_geometry(run: Run, lenders: Sequence[Run], output: Path) -> None:
    """Copy the estimates that trained runs have into this run's workdir, where it has none itself."""
    if not uses_geometry(run.config) or run.config.geometry.cameras:
        return
    wanted = geometry_origin(run.config)
    for lender in lenders:
        if lender == run or not uses_geometry(lender.config) or not is_trained(lender, output):
            continue
        if geometry_origin(lender.config) != wanted:
            continue
        workdir = output / lender.name
        for source in sorted((workdir / "geometry").glob("*.json")):
            target = geometry_path(output / run.name, source.stem)
            if not target.exists() and Manifest(workdir).covers(source):
                log.info("geometry %s: as in %s", source.stem, lender.name)
                with whole(target) as temporary:
                    temporary.write_bytes(source.read_bytes())


def _warm(config: Config, workdir: Path) -> None:
    """Put the training features of a run into its cache."""
    index = open_index(config)
    backbone = load_method_backbone(config)
    split_features(config, index.select(split="train"), backbone, workdir)
