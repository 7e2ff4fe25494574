"""Feature maps of a whole data set: computed once, kept in the cache (cache.py), memory-mapped.

The processes of a run divide the missing chunks among them, and each writes its own. An image that is
changed between reading it for its SHA-256 and decoding it is a problem, and its chunk is not written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float32

from mvead_jax.backbones.base import Backbone
from mvead_jax.data.digests import State, file_states, image_paths
from mvead_jax.data.image_files import digest
from mvead_jax.data.loading import LoadedSample, iterate, sample_pipeline
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.features.cache import Chunk, Extraction, feature_bytes
from mvead_jax.features.store import FeatureStore
from mvead_jax.runtime import sharding
from mvead_jax.runtime.disk import Part, amount, check_room
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.files import make_folder
from mvead_jax.runtime.progress import progress
from mvead_jax.runtime.sharding import (
    broadcast,
    gathered,
    is_first,
    own_share,
    raise_in_all,
    same_in_all,
    shared_errors,
    visible,
)

log = logging.getLogger(__name__)

Pictures = Mapping[str, tuple[State, str]]  # of Extraction.images


def extract(job: Extraction) -> dict[str, FeatureStore]:
    """Return the features float32 [S,V,h,w,D] of all samples by tap, from the cache or computed now.

    All processes must call; each computes its share of the chunks.

    Raises:
      DataProblems: every image that could not be read; what could be computed is kept.
      UserError: not enough disk, or features that are not finite.
    """
    index, backbone = job.index, job.backbone
    pictures = job.pictures()
    chunks = job.chunks({path: content for path, (_, content) in pictures.items()})
    same_in_all(
        " ".join(path.name for chunk in chunks for path in chunk.paths.values()),
        f"{index.root}: the processes differ in device or JAX; start all on the same",
    )
    missing = [number for number, chunk in enumerate(chunks) if is_first() and not chunk.is_sound()]
    missing = broadcast(missing)  # another process may have begun to write
    if missing:
        _compute(job, own_share([chunks[number] for number in missing]), pictures)
    else:
        log.info("features %s: %d samples from %s", job.name, len(index), job.cache)
    with shared_errors():
        arrays: dict[str, list[np.ndarray]] = {tap: [] for tap in backbone.taps}
        for chunk in chunks:
            found = visible(lambda chunk=chunk: chunk.read(job.config.dtype))
            if found is None:
                where = next(iter(chunk.paths.values()))
                raise UserError(f"{where}: written by another process and not to be seen by this one")
            for tap, array in found.items():
                arrays[tap].append(array)
    views = [index.views] * len(chunks)
    return {tap: FeatureStore(own, views, index.views) for tap, own in arrays.items()}


def seconds_a_picture(backbone: Backbone, batch: int) -> float:
    """Return the seconds of one image through the backbone, measured on a batch of blank ones, without decoding."""
    run = backbone.on_devices or backbone
    blank = np.zeros((_devices(backbone) * batch, backbone.image_size, backbone.image_size, 3), np.float32)
    jax.block_until_ready(run(blank))  # compiles
    begin = time.monotonic()
    jax.block_until_ready(run(blank))
    return (time.monotonic() - begin) / len(blank)


def _compute(job: Extraction, chunks: Sequence[Chunk], pictures: Pictures) -> None:
    """Computes and writes this process's chunks; raises what is wrong with those of all."""
    problems: list[str] = []
    with shared_errors():
        if chunks:
            problems = _compute_own(job, chunks, pictures)
    if problems := gathered(problems):
        raise_in_all(DataProblems(f"{job.index.root}: images that can't be read", problems))


def _compute_own(job: Extraction, chunks: Sequence[Chunk], pictures: Pictures) -> list[str]:
    """Writes chunks; returns what was wrong with images."""
    _announce(job, chunks)
    index, backbone, views = job.index, job.backbone, len(job.index.views)
    samples = [sample for chunk in chunks for sample in chunk.samples]
    pipeline = iterate(sample_pipeline(replace(index, samples=tuple(samples)), backbone.image_size))
    problems: list[str] = []
    at_once = _devices(backbone)
    with progress(f"features {job.name}", len(samples) * views, "images") as bar:
        for start in range(0, len(chunks), at_once):
            readable, loaded = [], []
            for chunk in chunks[start : start + at_once]:
                elements = [next(pipeline) for _ in chunk.samples]
                wrong = [element["problem"] for element in elements if element["problem"]]
                wrong = wrong or _changed(index, chunk.samples, pictures)
                problems += wrong
                if not wrong:
                    readable.append(chunk)
                    loaded.append(elements)
            found = _forward(loaded, backbone, job.images_in_a_pass)
            for chunk, features in zip(readable, found, strict=True):
                _check_finite(features, chunk.samples, backbone)
                chunk.write(features, job.config.dtype)
            bar.advance(views * sum(len(chunk.samples) for chunk in chunks[start : start + at_once]))
    return problems


def _changed(index: DatasetIndex, samples: Sequence[Sample], pictures: Pictures) -> list[str]:
    """Which images are not what they were before they were decoded, whatever their times."""
    found = []
    for path in image_paths(samples):
        state, content = pictures[path]
        try:
            if file_states(index.root, [path]) != [state] and digest(index.root / path) != content:
                found.append(f"{index.root / path}: changed while it was read; run again")
        except UserError as error:
            found.append(str(error))
    return found


def _devices(backbone: Backbone) -> int:
    """How many batches go through the backbone at once."""
    return sharding.local_mesh().size if backbone.on_devices else 1


def _forward(
    chunks: Sequence[Sequence[LoadedSample]], backbone: Backbone, batch: int
) -> list[dict[str, Float32[np.ndarray, "s V h w D"]]]:
    """Features of some chunks by tap, at most one chunk for each device; zeros where a view is missing.

    A device computes `batch` images at a time, however many devices there are: that decides the last bits.
    """
    if not chunks:
        return []
    flat = []
    for loaded in chunks:
        images = np.stack([element["images"] for element in loaded])
        flat.append(images.reshape(-1, *images.shape[2:]))
    run, longest = backbone.on_devices or backbone, max(len(images) for images in flat)
    outputs: dict[str, list[np.ndarray]] = {tap: [] for tap in backbone.taps}
    for at in range(0, longest, batch):
        passes = np.zeros((_devices(backbone), batch, *flat[0].shape[1:]), np.float32)
        for number, images in enumerate(flat):
            part = images[at : at + batch]
            passes[number, : len(part)] = part
        for tap, out in run(passes.reshape(-1, *passes.shape[2:])).items():
            outputs[tap].append(np.asarray(out, np.float32).reshape(len(passes), batch, *out.shape[1:]))
    found = []
    for number, (loaded, images) in enumerate(zip(chunks, flat, strict=True)):
        present = np.stack([element["present"] for element in loaded])
        features = {}
        for tap, parts in outputs.items():
            own = np.concatenate([part[number] for part in parts])[: len(images)]
            own = own.reshape(*present.shape, *own.shape[1:])
            own[~present] = 0
            features[tap] = own
        found.append(features)
    return found


def _check_finite(features: Mapping[str, np.ndarray], samples: Sequence[Sample], backbone: Backbone) -> None:
    for own in features.values():
        for sample, values in zip(samples, own, strict=True):
            if not np.isfinite(values).all():
                raise UserError(
                    f"{sample.id}: features that are not finite; check the weights {backbone.info.weights}"
                )


def _announce(job: Extraction, missing: Sequence[Chunk]) -> None:
    """Says what is about to be computed, the bytes and the time it takes; refuses if the disk is too full."""
    backbone, views = job.backbone, len(job.index.views)
    samples = sum(len(chunk.samples) for chunk in missing)
    needed = feature_bytes(samples, views, backbone.shapes, job.config.dtype)
    make_folder(job.cache)
    check_room([Part("features", job.cache, needed)])
    seconds = seconds_a_picture(backbone, job.images_in_a_pass) * samples * views
    log.info(
        "features %s: %d images to compute, %s in %s, about %.0f s",
        *(job.name, samples * views, amount(needed), job.cache, seconds),
    )
