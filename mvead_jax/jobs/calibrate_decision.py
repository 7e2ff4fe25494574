"""The last step of a training with decision.held_out: scores of the held-out samples become thresholds.

models/<category or all>/decision.safetensors
"""

from __future__ import annotations

import logging
from collections import Counter

from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.records import DatasetIndex
from mvead_jax.decision.calibration import read_calibrations, write_calibrations
from mvead_jax.jobs.decision import calibration_path, calibration_samples, score_held_out
from mvead_jax.jobs.events import forget, record
from mvead_jax.jobs.inputs import inputs_of, split_features
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.model_facts import fingerprint, foreground_facts
from mvead_jax.jobs.workdir import Job, model_folder
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.runtime.sharding import broadcast, is_first, shared_errors
from mvead_jax.scoring.model_store import STATE

log = logging.getLogger(__name__)


def calibrate_decision(job: Job, name: str, index: DatasetIndex, manifest: Manifest) -> None:
    """Score the held-out samples by the model that is in the workdir, or find that it is done. All must call."""
    config, workdir = job.config, job.workdir
    held_out, own = index.select(split="held_out"), calibration_samples(index)
    folder, path = model_folder(workdir, name), calibration_path(workdir, name)
    learned = (folder / STATE, folder / STATISTICS, folder / IGNORED)
    facts = {
        "features": fingerprint(config, own, job.backbone, workdir),
        "defective": [sample.id for sample in held_out.samples if sample.label == 1],
    }
    if config.data.foreground != "none":
        facts["foreground"] = foreground_facts(job, own)
    done = False
    with shared_errors():
        if is_first():
            facts["model"] = manifest.digest(*learned)
            wanted = (config.score.deciding(), facts)
            done = manifest.covers(path) and read_calibrations(path)[1:] == wanted
    if broadcast(done):
        return
    with shared_errors():
        if is_first():
            manifest.forget(workdir / "config.json")
            forget(workdir, {"stage": "decision", "name": name})
    features = split_features(config, own, job.backbone, workdir)
    with shared_errors():
        model = job.load(name, {"views": index.views, "categories": index.categories})
        keys = job.keys(model.method, index.categories)
    inputs = inputs_of(config, model.method, own, features)
    defective = Counter(sample.category for sample in held_out.samples if sample.label == 1)
    found = score_held_out(config, model, own, inputs, keys, defective)
    with shared_errors():
        if is_first():
            write_calibrations(path, found, config.score.deciding(), facts)
            target = config.decision.false_alarms
            for category, calibration in found.items():
                calibration.check(category, target)
                threshold, count = calibration.threshold(target), len(calibration.samples)
                log.info("decision %s: fails above %.4g, by %d held-out samples", category, threshold, count)
                event = {"stage": "decision", "name": name, "category": category}
                record(workdir, event | {"held_out": count, "target": target, "threshold": threshold})
            manifest.record(path)  # last, as of a model
