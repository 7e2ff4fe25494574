"""Whether a model that is there only lacks further samples, and what it is with them: without a refit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from mvead_jax.bank.fill import Bank
from mvead_jax.data.records import DatasetIndex
from mvead_jax.jobs.model_facts import fingerprint
from mvead_jax.jobs.workdir import Job, model_folder
from mvead_jax.methods.base import GrowsBank, Method, State, TrainData
from mvead_jax.scoring.model_store import STATE, map_rows, named_leaves, with_leaves

log = logging.getLogger(__name__)

_OF_SAMPLES = ("training", "features", "images", "added")  # facts in which two models of one growth differ


def first_new(
    job: Job,
    method: Method,
    training: DatasetIndex,
    facts: Mapping[str, Any],
    earlier: Mapping[str, Any] | None,
) -> int | None:
    """Return the position of the first sample that an earlier model has not learned; None unless all before it are
    those that it learned, nothing else has changed, and the model can grow.

    Args:
      facts: of the model to be. earlier: of the one that is there, None where there is none.
    """
    able = isinstance(method, GrowsBank) and method.grows
    if earlier is None or not able or jax.process_count() > 1:
        return None
    if any(facts.get(key) != earlier.get(key) for key in (facts.keys() | earlier.keys()) - set(_OF_SAMPLES)):
        return None
    known = {tuple(one) for one in earlier.get("added", ())}
    new = {tuple(one) for one in facts.get("added", ())} - known
    first = len(training) - len(new)
    if not new or {(one.category, one.id) for one in training.samples[first:]} != {one[1:] for one in new}:
        return None
    before = replace(training, samples=training.samples[:first])
    return (
        first if fingerprint(job.config, before, job.backbone, job.workdir) == earlier["features"] else None
    )


def grown(
    job: Job, name: str, method: GrowsBank, data: TrainData, first: int, earlier: Mapping[str, Any]
) -> State:
    """Return the model that is there with the samples from `first` on."""
    log.info("model %s: its bank grows by %d samples, without a refit", name, len(data.index) - first)
    state = job.load(name, earlier).state
    path = model_folder(job.workdir, name) / STATE
    leaves = {  # rows as they lie on the disk, however many devices would hold them
        at: Bank(np.array(map_rows(path, at)), leaf.sample) if isinstance(leaf, Bank) else leaf
        for at, leaf in named_leaves(state).items()
    }
    return method.grow(with_leaves(state, leaves), data, first)
