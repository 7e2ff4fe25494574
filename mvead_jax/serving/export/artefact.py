"""One folder to ship: a workdir's models, all that scoring needs, and what shows that they still score so.

    config.json environment.json geometry/ models/           as in a workdir: it is loaded as one
    weights/backbone.safetensors                             the backbone: no hub or package is needed
    exported/                                                the scoring function by itself (function.py)
    golden/                                                  samples with their scores (golden.py)
    MODEL_CARD.md metrics.json manifest.json manifest.sha256

Nothing in it is a pickle.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from mvead_jax.backbones.base import load_network
from mvead_jax.backbones.stored import STORED, write_stored
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import Config
from mvead_jax.data.readers import open_configured
from mvead_jax.decision.by_hand import check_before_training
from mvead_jax.decision.split import hold_out
from mvead_jax.jobs.estimate_geometry import geometry_path
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.provenance import patch_score_words
from mvead_jax.jobs.workdir import (
    OVERRIDDEN,
    WEIGHTS,
    Job,
    checked_keys,
    reading,
    trained_config,
    trained_geometries,
)
from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, whole, write_json, write_text
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.progress import progress
from mvead_jax.scoring.model_store import read_facts
from mvead_jax.serving.export.card import model_card
from mvead_jax.serving.export.checksums import SEAL, broken, seal
from mvead_jax.serving.export.function import export_function
from mvead_jax.serving.export.golden import check_golden, choose, write_golden
from mvead_jax.serving.export.onnx_model import check_onnx, write_onnx
from mvead_jax.serving.inspector import Inspector

log = logging.getLogger(__name__)

_GOLDEN = 2  # samples of each category


@computing()
def export(
    workdir: Path,
    artefact: Path,
    *,
    golden: int = _GOLDEN,
    overrides: Mapping[str, str] | None = None,
    onnx: bool = False,
) -> None:
    """Make an artefact of a finished workdir, whole or not at all, and verifies it.

    Args:
      golden: samples of each category to keep with their scores. overrides: as of score.py.
      onnx: write each function as an ONNX model too.

    Raises:
      UserError: an unfinished workdir, a folder that is there already, no data set to take samples from, or
        an artefact that does not score as the workdir does.
    """
    if golden < 1:
        raise UserError(f"--golden={golden}: must be at least 1, for verify.py has nothing else to score")
    if artefact.exists() or artefact.is_symlink():
        raise UserError(f"--output {artefact}: is there already; name a new folder")
    if onnx:
        check_onnx()
    with reading(workdir):
        _export(workdir, artefact, golden, overrides or {}, onnx)


def _export(workdir: Path, artefact: Path, golden: int, overrides: Mapping[str, str], onnx: bool) -> None:
    """`export` of a workdir in which nothing changes meanwhile."""
    config = trained_config(workdir, overrides, OVERRIDDEN)
    check_before_training(
        config.decision.threshold
    )  # an artefact keeps a number, and no path of this machine
    if config.data.foreground != "none":
        raise UserError(
            f"{workdir}: trained with data.foreground={config.data.foreground}, whose masks no exported function can "
            "make; train with data.foreground=none to export, or load the workdir itself by Inspector"
        )
    if config.backbone.engine != "xla" and config.backbone.precision != "float32":
        raise UserError(
            f"{workdir}: trained with backbone.engine={config.backbone.engine} in {config.backbone.precision}, whose "
            "features an exported function, which is XLA's, does not give; to export train in float32 or with "
            "backbone.engine=xla, or load the workdir itself by Inspector"
        )
    inspector = Inspector.load(workdir, overrides=overrides)
    backbone, categories = inspector.backbone, inspector.categories
    index = open_configured(replace(config.data, categories=tuple(categories)))
    index = hold_out(index, config.decision.held_out, config.seed)
    samples = {category: choose(index, category, golden) for category in categories}
    with whole(artefact, "--output") as folder:
        folder.mkdir()
        write_json(folder / "config.json", to_dict(_shipped(config)))
        shutil.copyfile(workdir / "environment.json", folder / "environment.json")
        shutil.copytree(workdir / "models", folder / "models", ignore=shutil.ignore_patterns(".*"))
        geometries = trained_geometries(config, workdir, categories)
        for category in geometries:
            path = geometry_path(folder, category)
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(geometry_path(workdir, category), path)
        (folder / WEIGHTS).mkdir()
        network = load_network(config.backbone, backbone.taps, config.seed)
        write_stored(folder / WEIGHTS / STORED, network, backbone.taps)
        facts = {path.name: read_facts(path) for path in sorted((folder / "models").iterdir())}
        job = Job(config, workdir, backbone, geometries)
        with progress("functions", len(categories), "categories") as bar:
            for name, one in facts.items():
                for category in one["categories"]:
                    keys = checked_keys(job, name, one, [category])[category]
                    method = job.method(name, one["views"], one["categories"])
                    function = export_function(folder, config, network, method, category, keys)
                    if onnx:
                        write_onnx(folder, category, function)
                    bar.advance()
        write_golden(folder, index.root, samples, inspector)
        environments = {"trained": read_json(workdir / "environment.json", "of train.py")}
        decision = inspector.decider.words() if inspector.decider else None
        if metrics := _metrics(workdir, patch_score_words(config, method), decision):
            write_json(folder / "metrics.json", metrics)
            environments["measured"] = read_json(workdir / "scores/environment.json", "of score.py")
        environments["exported"] = environment()
        sizes = {path.name: _bytes(path) for path in sorted(folder.iterdir()) if path.is_dir()}
        lines = len(read_json(folder / "golden/expected.json", "of this export"))
        decision = decision or "none: no training samples were held out, so no threshold is known"
        text = model_card(
            config, backbone, facts, metrics, decision, environments, sizes, inspector.digest, lines
        )
        write_text(folder / "MODEL_CARD.md", text)
        seal(folder)
        if problems := verify(folder)[0]:
            raise UserError(f"{artefact}: not written, for it does not score as {workdir}: {problems[0]}")


@computing()
def verify(artefact: Path) -> tuple[list[str], str]:
    """Return what is wrong with an artefact, a line each; and what was found in order, in words.

    Golden samples are scored only if every file is as it was exported.

    Raises:
      UserError: not an artefact.
    """
    if not artefact.is_dir():
        raise UserError(f"{artefact}: no such folder")
    if problems := broken(artefact):
        return problems, "golden samples were not scored: the files are not those that were exported"
    inspector = Inspector.load(artefact)
    problems, scorings, largest = check_golden(artefact, inspector)
    digest = (artefact / SEAL).read_text().split()[0]
    return problems, (
        f"every file is as exported ({SEAL} {digest}); {scorings} golden scorings on {jax.device_count()} "
        f"{jax.default_backend()} device(s), largest difference {largest:.1e} of a sample's largest score"
    )


def _shipped(config: Config) -> Config:
    """The config with what scoring changed in it, and without places of this machine."""
    return replace(
        config, data=replace(config.data, root="", ignore=""), features=replace(config.features, cache="")
    )


def _metrics(workdir: Path, patch_score: str, decision: str | None) -> dict[str, Any] | None:
    """Of the test split by these very models; None if they have not been scored, or otherwise than the
    artefact scores.

    Args:
      patch_score, decision: of the artefact, in the words of a protocol.
    """
    path = workdir / "scores/metrics.json"
    if not path.exists():
        log.warning("%s: no scores of the test split: the model card will have no metrics", workdir)
        return None
    metrics = read_json(path, "of score.py")
    digest = Manifest(workdir).digest(workdir / "models")
    if metrics["protocol"].get("models_digest") != digest:
        log.warning("%s: of an earlier training: the model card will have no metrics; score again", path)
        return None
    for key, own in (("patch_score", patch_score), ("decision", decision)):
        if (measured := metrics["protocol"].get(key)) != own:
            log.warning(
                "%s: its %s is %s, here %s: the model card will have no metrics; score with that",
                *(path, key, measured, own),
            )
            return None
    return metrics


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
