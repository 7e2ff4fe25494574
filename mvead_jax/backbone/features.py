"""Patch features of a whole data set: computed once, kept on disk, memory-mapped.

The cache is a folder of chunk files, each holding [s,V,N,D] for a run of whole samples. A chunk's name is the
digest of all that its numbers depend on: the backbone (weights, block, precision, sizes, code), the
preprocessing, device kind, JAX, and the SHA-256 of its pictures (data/contents.py, whose records lie beside
the chunks). So another picture or setting makes another name, and a chunk is written to a temporary name
first: what has the right name was right and whole. A picture that is changed between reading it for its
SHA-256 and decoding it is a problem, and its chunk is not written. A chunk ends in the SHA-256 of its name
and all its bytes: what has changed on the disk since, or was swapped, is found before use and computed again.
So the processes of a run divide the chunks among them, and each writes its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float32

from mvead_jax.backbone.extractor import Backbone
from mvead_jax.config import Config, FeaturesConfig
from mvead_jax.data.contents import State, contents, image_paths, recorded, states
from mvead_jax.data.loading import PREPROCESSING_VERSION, LoadedSample, iterate, sample_pipeline
from mvead_jax.data.pictures import digest
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.errors import DataProblems, UserError
from mvead_jax.files import make_folder, whole
from mvead_jax.plan import Part, amount, check_room, feature_bytes
from mvead_jax.progress import progress
from mvead_jax.sharding import (
    from_first,
    is_first,
    local_mesh,
    of_all,
    own_share,
    raise_in_all,
    same_in_all,
    together,
    visible,
)

log = logging.getLogger(__name__)

_CHUNK_SAMPLES = 16
_VERSION = 3  # of the file format and its name
_SEAL = hashlib.sha256().digest_size  # bytes at the end of a chunk


class FeatureStore:
    """Array-like float32 [S,V,N,D] over chunk files; axis V in the order of `views`, zeros where missing.

    `store[samples]` and `store[samples, view]` read from disk what they return, with slices or indices.
    """

    def __init__(
        self, chunks: Sequence[np.ndarray], chunk_views: Sequence[tuple[str, ...]], views: tuple[str, ...]
    ):
        """chunks: [s,V',N,D]; chunk_views: the names of each chunk's axis V', all of them among `views`."""
        self._chunks = list(chunks)
        self._columns = [[names.index(v) if v in names else None for v in views] for names in chunk_views]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self._chunk_views, self.views = list(chunk_views), views
        self.shape = (int(self._starts[-1]), len(views), *self._chunks[0].shape[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        samples, view = key if isinstance(key, tuple) else (key, None)
        positions = np.atleast_1d(np.arange(len(self))[samples])
        views = range(self.shape[1]) if view is None else [view]
        out = np.zeros((len(positions), len(views), *self.shape[2:]), np.float32)
        chunk_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(chunk_of):
            rows = np.flatnonzero(chunk_of == number)
            inside = positions[rows] - self._starts[number]
            for at, name in enumerate(views):
                column = self._columns[number][name]
                if column is not None:
                    out[rows, at] = self._chunks[number][inside, column]
        out = out if view is None else out[:, 0]
        return out[0] if np.isscalar(samples) else out

    @classmethod
    def concatenate(cls, stores: Sequence[FeatureStore], views: tuple[str, ...]) -> FeatureStore:
        """The samples of several stores one after the other, on the common axis `views`."""
        chunks = [chunk for store in stores for chunk in store._chunks]
        return cls(chunks, [names for store in stores for names in store._chunk_views], views)


def extract(
    index: DatasetIndex, backbone: Backbone, config: FeaturesConfig, cache: Path, *, batch_size: int
) -> FeatureStore:
    """Features of all samples of `index` (one category and split), from the cache or computed now.

    All processes must call; each computes its share of the chunks.

    Args:
      index: at least one sample.
      backbone: the frozen extractor.
      config: what the cache stores.
      cache: its folder; chunks that are there are not computed again.
      batch_size: the most images in one forward pass.

    Raises:
      DataProblems: every picture that could not be read; what could be computed is kept.
      UserError: not enough disk, or features that are not finite.
    """
    name = f"{'+'.join(index.categories)}/{index.samples[0].split}"
    seen, pictures = _contents(index, cache)
    chunks = [
        _Chunk(samples, cache / f"{name}.npy")
        for samples, name in _names(index, pictures, backbone, config, batch_size)
    ]
    same_in_all(
        " ".join(chunk.path.name for chunk in chunks),
        f"{index.root}: the processes differ in device or JAX; start all on the same",
    )
    shape = (len(index.views), backbone.grid[0] * backbone.grid[1], backbone.width)
    missing = [number for number, chunk in enumerate(chunks) if is_first() and not chunk.is_sound()]
    missing = from_first(missing)  # another process may have begun to write
    if missing:
        own = own_share([chunks[number] for number in missing])
        before = dict(zip(image_paths(index.samples), zip(seen, pictures, strict=True), strict=True))
        _compute(name, index, own, before, backbone, config, batch_size)
    else:
        log.info("features %s: %d samples from %s", name, len(index), cache)
    with together():
        arrays = []
        for chunk in chunks:
            array = visible(lambda chunk=chunk: chunk.read(shape, config.dtype))
            if array is None:
                raise UserError(f"{chunk.path}: written by another process and not to be seen by this one")
            arrays.append(array)
    return FeatureStore(arrays, [index.views] * len(chunks), index.views)


def fingerprint(
    index: DatasetIndex, backbone: Backbone, config: FeaturesConfig, cache: Path, batch_size: int
) -> str:
    """SHA-256 of all that the features of `index` depend on, without computing them. All processes must call.

    Raises:
      DataProblems: every picture that can't be read.
    """
    _, pictures = _contents(index, cache)
    names = [name for _, name in _names(index, pictures, backbone, config, batch_size)]
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def cached_bytes(
    index: DatasetIndex, backbone: Backbone, config: FeaturesConfig, cache: Path, batch_size: int
) -> int:
    """Of the features of `index` (one category and split) that the cache holds. Reads no picture: of those
    that were not read before it holds none."""
    return sum(path.stat().st_size for _, path in _cached(index, backbone, config, cache, batch_size))


def cached_samples(
    index: DatasetIndex, backbone: Backbone, config: FeaturesConfig, cache: Path, batch_size: int
) -> int:
    """How many samples of `index` (one category and split) have their features in the cache, likewise."""
    return sum(len(samples) for samples, _ in _cached(index, backbone, config, cache, batch_size))


def cache_folder(config: Config, workdir: Path) -> Path:
    """The folder of the features."""
    if config.features.cache:
        return Path(config.features.cache)
    return workdir.absolute().parent / "feature_cache"


def as_stored(features: Float32[Array, "*n D"], dtype: str) -> Float32[Array, "*n D"]:
    """Features as the cache gives them back: what is scored without it must be rounded like what is in it."""
    if dtype == "bfloat16":
        return jax.lax.reduce_precision(features, exponent_bits=8, mantissa_bits=7)
    return features


@dataclass(frozen=True)
class _Chunk:
    samples: tuple[Sample, ...]
    path: Path

    def is_sound(self) -> bool:
        """Whether the chunk is there with the bytes that were written under this name."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                    sealed = memoryview(content)
                    sound = size > _SEAL and self._seal(sealed[:-_SEAL]) == sealed[-_SEAL:]
                    sealed.release()
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # an empty file can't be mapped
            sound = False
        if not sound:
            log.warning("%s: damaged; its features are computed again", self.path)
        return sound

    def read(self, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
        """The memory-mapped chunk, or None if it is not there."""
        try:
            stored = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        if stored.shape != (len(self.samples), *shape) or stored.dtype != _STORED[dtype]:
            return None
        return stored.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else stored

    def write(self, features: np.ndarray, dtype: str) -> None:
        stored = features.astype(ml_dtypes.bfloat16).view(np.uint16) if dtype == "bfloat16" else features
        with whole(self.path) as temporary, temporary.open("w+b") as file:
            np.save(file, stored)
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                seal = self._seal(content)
            file.write(seal)

    def _seal(self, content) -> bytes:
        digest = hashlib.sha256(self.path.name.encode())
        digest.update(content)
        return digest.digest()


Before = Mapping[str, tuple[State, str]]  # of each picture by its path: its state, then its SHA-256
_STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


def _contents(index: DatasetIndex, cache: Path) -> tuple[list[State], list[str]]:
    """The state, as this process sees it, and the SHA-256 of every picture, which the first process reads.

    All must call.
    """
    paths = image_paths(index.samples)
    with together():
        seen = states(index.root, paths)
        pictures = contents(index.root, paths, seen, cache) if is_first() else None
    known = [state[1:3] or state for state in seen]  # size and time; a place or an inode may be its own
    same_in_all(
        hashlib.sha256(json.dumps([paths, known]).encode()).hexdigest(),
        f"{index.root}: the processes see different pictures; let all read one copy of the data set",
    )
    return seen, from_first(pictures)


def _cached(
    index: DatasetIndex, backbone: Backbone, config: FeaturesConfig, cache: Path, batch_size: int
) -> list[tuple[tuple[Sample, ...], Path]]:
    """The runs of samples whose pictures were read before and whose features are there."""
    paths = image_paths(index.samples)
    pictures = recorded(states(index.root, paths), cache)
    if pictures is None:
        return []
    names = _names(index, pictures, backbone, config, batch_size)
    found = [(samples, cache / f"{name}.npy") for samples, name in names]
    return [(samples, path) for samples, path in found if path.exists()]


def _names(
    index: DatasetIndex, pictures: Sequence[str], backbone: Backbone, config: FeaturesConfig, batch_size: int
) -> list[tuple[tuple[Sample, ...], str]]:
    """The runs of samples that make a chunk, with the chunk's name, of the SHA-256 of every picture."""
    of_path = dict(zip(image_paths(index.samples), pictures, strict=True))
    runs = [index.samples[at : at + _CHUNK_SAMPLES] for at in range(0, len(index), _CHUNK_SAMPLES)]
    return [(samples, _name(samples, index, of_path, backbone, config, batch_size)) for samples in runs]


def _images_in_a_pass(index: DatasetIndex, batch_size: int) -> int:
    """The images of a chunk, split evenly over its passes so that none ends nearly empty. The same for every
    chunk of an index, whichever are missing: a resumed run gives the same bits."""
    images = min(_CHUNK_SAMPLES, len(index)) * len(index.views)
    return -(-images // -(-images // batch_size))


def _name(
    samples: Sequence[Sample],
    index: DatasetIndex,
    pictures: Mapping[str, str],
    backbone: Backbone,
    config: FeaturesConfig,
    batch_size: int,
) -> str:
    """The name of a chunk. Images in a pass and device are in it because they decide the last bits.

    pictures: the SHA-256 of each by its path."""
    files = [
        [sample.id, view.name, view.image, pictures[view.image]]
        for sample in samples
        for view in sample.views
    ]
    key = {
        "version": [_VERSION, PREPROCESSING_VERSION],
        "backbone": backbone.digest,
        "device": [jax.devices()[0].device_kind, jax.__version__],
        "stored": config.dtype,
        "images_in_a_pass": _images_in_a_pass(index, batch_size),
        "views": index.views,
        "files": files,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]


def _compute(
    name,
    index: DatasetIndex,
    chunks: Sequence[_Chunk],
    before: Before,
    backbone: Backbone,
    config,
    batch_size,
) -> None:
    """Computes and writes this process's chunks; raises what is wrong with those of all."""
    problems: list[str] = []
    with together():
        if chunks:
            problems = _compute_own(name, index, chunks, before, backbone, config, batch_size)
    if problems := of_all(problems):
        raise_in_all(DataProblems(f"{index.root}: pictures that can't be read", problems))


def _compute_own(
    name,
    index: DatasetIndex,
    chunks: Sequence[_Chunk],
    before: Before,
    backbone: Backbone,
    config,
    batch_size,
) -> list[str]:
    """Writes chunks; returns what was wrong with pictures."""
    views = len(index.views)
    batch = _images_in_a_pass(index, batch_size)
    _announce(name, chunks, backbone, config, views, batch)

    samples = [sample for chunk in chunks for sample in chunk.samples]
    pipeline = iterate(
        sample_pipeline(DatasetIndex(index.root, tuple(samples), index.views), backbone.image_size)
    )
    problems: list[str] = []
    at_once = _devices(backbone)
    with progress(f"features {name}", len(samples) * views, "images") as bar:
        for start in range(0, len(chunks), at_once):
            readable, loaded = [], []
            for chunk in chunks[start : start + at_once]:
                elements = [next(pipeline) for _ in chunk.samples]
                wrong = [element["problem"] for element in elements if element["problem"]]
                wrong = wrong or _changed(index, chunk.samples, before)
                problems += wrong
                if not wrong:
                    readable.append(chunk)
                    loaded.append(elements)
            for chunk, features in zip(readable, _forward(loaded, backbone, batch), strict=True):
                _check_finite(features, chunk.samples, backbone)
                chunk.write(features, config.dtype)
            bar.advance(views * sum(len(chunk.samples) for chunk in chunks[start : start + at_once]))
    return problems


def _changed(index: DatasetIndex, samples: Sequence[Sample], before: Before) -> list[str]:
    """Which pictures are not what they were before they were decoded, whatever their times."""
    found = []
    for path in image_paths(samples):
        state, content = before[path]
        try:
            if states(index.root, [path]) != [state] and digest(index.root / path) != content:
                found.append(f"{index.root / path}: changed while it was read; run again")
        except UserError as error:
            found.append(str(error))
    return found


def _devices(backbone: Backbone) -> int:
    """How many batches go through the backbone at once."""
    return local_mesh().size if backbone.on_devices else 1


def _forward(
    chunks: Sequence[Sequence[LoadedSample]], backbone: Backbone, batch: int
) -> list[Float32[np.ndarray, "s V N D"]]:
    """Features of some chunks, at most one for each device; zeros where a view is missing.

    A device computes `batch` images at a time, however many devices there are: that decides the last bits.
    """
    if not chunks:
        return []
    flat = []
    for loaded in chunks:
        images = np.stack([element["images"] for element in loaded])
        flat.append(images.reshape(-1, *images.shape[2:]))
    run, longest = backbone.on_devices or backbone, max(len(images) for images in flat)
    outputs = []
    for at in range(0, longest, batch):
        passes = np.zeros((_devices(backbone), batch, *flat[0].shape[1:]), np.float32)
        for number, images in enumerate(flat):
            part = images[at : at + batch]
            passes[number, : len(part)] = part
        outputs.append(run(passes.reshape(-1, *passes.shape[2:])))
    features = np.stack(
        [np.asarray(out, np.float32).reshape(len(passes), batch, *out.shape[1:]) for out in outputs]
    )
    found = []
    for number, (loaded, images) in enumerate(zip(chunks, flat, strict=True)):
        present = np.stack([element["present"] for element in loaded])
        own = features[:, number].reshape(-1, *features.shape[3:])[: len(images)]
        own = own.reshape(*present.shape, *own.shape[1:])
        own[~present] = 0
        found.append(own)
    return found


def seconds_a_picture(index: DatasetIndex, backbone: Backbone, batch_size: int) -> float:
    """Through the backbone, measured on one batch of blank pictures; decoding is not in it."""
    return _seconds_a_picture(backbone, _images_in_a_pass(index, batch_size))


def _seconds_a_picture(backbone: Backbone, batch: int) -> float:
    run = backbone.on_devices or backbone
    blank = np.zeros((_devices(backbone) * batch, backbone.image_size, backbone.image_size, 3), np.float32)
    jax.block_until_ready(run(blank))  # compiles
    begin = time.monotonic()
    jax.block_until_ready(run(blank))
    return (time.monotonic() - begin) / len(blank)


def _check_finite(features: np.ndarray, samples: Sequence[Sample], backbone: Backbone) -> None:
    for sample, own in zip(samples, features, strict=True):
        if not np.isfinite(own).all():
            raise UserError(
                f"{sample.id}: features that are not finite; check the weights {backbone.weights}"
            )


def _announce(name, missing: Sequence[_Chunk], backbone: Backbone, config, views: int, batch: int) -> None:
    """Says what is about to be computed, the bytes and the time it takes; refuses if the disk is too full."""
    images = views * sum(len(chunk.samples) for chunk in missing)
    patches = backbone.grid[0] * backbone.grid[1]
    needed = feature_bytes(images // views, views, patches, backbone.width, config.dtype)
    cache = missing[0].path.parent
    make_folder(cache)
    check_room([Part("features", cache, needed)])
    seconds = _seconds_a_picture(backbone, batch) * images
    log.info(
        "features %s: %d images to compute, %s in %s, about %.0f s",
        *(name, images, amount(needed), cache, seconds),
    )
