"""The cache of feature maps: chunk files that are named by all that their numbers depend on.

Each holds one tap [s,V,h,w,D] of a run of whole samples. Its name is the digest of the backbone (weights, taps
that are computed together, precision, sizes, code), the preprocessing, device kind, JAX, and the SHA-256 of its
images (data/contents.py, whose records lie beside the chunks). So another image or setting makes another name, and
a chunk is written to a temporary name first: what has the right name was right and whole. It ends in the
SHA-256 of its name and all its bytes: what has changed on the disk since, or was swapped, is found before it
is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float32

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config, FeaturesConfig
from mvead_jax.data.digests import (
    State,
    file_digests,
    file_states,
    image_paths,
    recorded_digests,
)
from mvead_jax.data.loading import PREPROCESSING_VERSION
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.runtime.files import whole
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.sharding import broadcast, is_first, same_in_all, shared_errors

log = logging.getLogger(__name__)

_CHUNK_SAMPLES = 16
_VERSION = 4  # of the file format and its name
_SEAL = hashlib.sha256().digest_size  # bytes at the end of a chunk
_STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


@dataclass(frozen=True)
class Chunk:
    """The files [s,V,h,w,D] of the features of some samples, one for each tap, which may not be there yet.

    Attributes:
      shapes: (V, h, w, D) of each tap.
    """

    samples: tuple[Sample, ...]
    paths: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    def exists(self) -> bool:
        """Return whether the files are there, right or not."""
        return all(path.exists() for path in self.paths.values())

    def is_sound(self) -> bool:
        """Return whether the files are there with the bytes that were written under their names."""
        return all(map(_is_sound, self.paths.values()))

    def read(self, dtype: str) -> dict[str, np.ndarray] | None:
        """Return the memory-mapped features by tap, or None if a file is not there."""
        found = {}
        for tap, path in self.paths.items():
            try:
                stored = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError):
                return None
            if stored.shape != (len(self.samples), *self.shapes[tap]) or stored.dtype != _STORED[dtype]:
                return None
            found[tap] = stored.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else stored
        return found

    def write(self, features: Mapping[str, Float32[np.ndarray, "s V h w D"]], dtype: str) -> None:
        """Write the features of all taps. Raises UserError if the disk refuses."""
        for tap, path in self.paths.items():
            stored = features[tap]
            if dtype == "bfloat16":
                stored = stored.astype(ml_dtypes.bfloat16).view(np.uint16)
            with whole(path) as temporary, temporary.open("w+b") as file:
                np.save(file, stored)
                file.flush()
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    seal = _seal(path, content)
                file.write(seal)


def _is_sound(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                sealed = memoryview(content)
                sound = size > _SEAL and _seal(path, sealed[:-_SEAL]) == sealed[-_SEAL:]
                sealed.release()
    except FileNotFoundError:
        return False
    except (OSError, ValueError):  # an empty file can't be mapped
        sound = False
    if not sound:
        log.warning("%s: damaged; its features are computed again", path)
    return sound


def _seal(path: Path, content) -> bytes:
    digest = hashlib.sha256(path.name.encode())
    digest.update(content)
    return digest.digest()


@dataclass(frozen=True)
class Extraction:
    """Features that are wanted, and where they are kept.

    Attributes:
      index: of one category and split, at least one sample.
      config: what the cache stores. cache: its folder.
      batch_size: the most images in one forward pass.
    """

    index: DatasetIndex
    backbone: Backbone
    config: FeaturesConfig
    cache: Path
    batch_size: int

    @classmethod
    def of(cls, config: Config, index: DatasetIndex, backbone: Backbone, workdir: Path) -> Extraction:
        """Return the extraction as a run wants it."""
        cache = cache_folder(config, workdir)
        at_a_time = backbone.images_at_a_time(config.backbone.batch_size)
        return cls(index, backbone, config.features, cache, at_a_time)

    @property
    def name(self) -> str:
        """For people."""
        return f"{'+'.join(self.index.categories)}/{self.index.samples[0].split}"

    @property
    def images_in_a_pass(self) -> int:
        """The images of a chunk, split evenly over its passes so that none ends nearly empty. The same for
        every chunk of an index, whichever are missing: a resumed run gives the same bits."""
        images = min(_CHUNK_SAMPLES, len(self.index)) * len(self.index.views)
        return -(-images // -(-images // self.batch_size))

    def pictures(self) -> dict[str, tuple[State, str]]:
        """Return of each image by its path: its state, as this process sees it, and its SHA-256, which the first
        process reads. All must call.

        Raises:
          DataProblems: every image that can't be read.
          UserError: the processes see different images.
        """
        root, paths = self.index.root, image_paths(self.index.samples)
        with shared_errors():
            seen = file_states(root, paths)
            digests = file_digests(root, paths, seen, self.cache) if is_first() else None
        known = [state[1:3] or state for state in seen]  # size and time; a place or an inode may be its own
        same_in_all(
            hashlib.sha256(json.dumps([paths, known]).encode()).hexdigest(),
            f"{root}: the processes see different images; let all read one copy of the data set",
        )
        return dict(zip(paths, zip(seen, broadcast(digests), strict=True), strict=True))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(V, h, w, D) of each tap."""
        views = len(self.index.views)
        return {tap: (views, *self.backbone.shapes[tap]) for tap in self.backbone.taps}

    def chunks(self, digests: Mapping[str, str]) -> list[Chunk]:
        """Return the chunks that hold the features. digests: the SHA-256 of each image by its path."""
        samples = self.index.samples
        runs = [samples[at : at + _CHUNK_SAMPLES] for at in range(0, len(samples), _CHUNK_SAMPLES)]
        found = []
        for run in runs:
            name = self.digest(run, digests)
            paths = {tap: self.cache / f"{name}-{tap}.npy" for tap in self.backbone.taps}
            found.append(Chunk(run, paths, self.shapes))
        return found

    def digest(self, samples: Sequence[Sample], digests: Mapping[str, str]) -> str:
        """Return the name of a chunk. Images in a pass and device are in it because they decide the last bits."""
        files = [
            [sample.id, view.name, view.image, digests[view.image], *(["mirrored"] if view.mirrored else [])]
            for sample in samples
            for view in sample.views
        ]
        key = {
            "version": [_VERSION, PREPROCESSING_VERSION],
            "backbone": self.backbone.digest,
            "device": [jax.devices()[0].device_kind, jax.__version__],
            "stored": self.config.dtype,
            "images_in_a_pass": self.images_in_a_pass,
            "views": self.index.views,
            "files": files,
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that the features depend on, without computing them. All must call; errors
        as of `images`."""
        digests = {path: digest for path, (_, digest) in self.pictures().items()}
        names = [path.stem for chunk in self.chunks(digests) for path in chunk.paths.values()]
        return hashlib.sha256(" ".join(names).encode()).hexdigest()

    def cached(self) -> list[Chunk]:
        """Return the chunks that are there. Reads no image: of those that were not read before it finds none."""
        paths = image_paths(self.index.samples)
        digests = recorded_digests(file_states(self.index.root, paths), self.cache)
        if digests is None:
            return []
        return [one for one in self.chunks(dict(zip(paths, digests, strict=True))) if one.exists()]

    def cached_bytes(self) -> int:
        """Return the bytes of the chunks that are there."""
        return sum(path.stat().st_size for chunk in self.cached() for path in chunk.paths.values())


def cache_folder(config: Config, workdir: Path) -> Path:
    """Return the folder of the features."""
    if config.features.cache:
        return expanded(config.features.cache)
    return workdir.absolute().parent / "feature_cache"


def feature_bytes(
    samples: int, views: int, maps: Mapping[str, tuple[int, int, int]], dtype: str = "float32"
) -> int:
    """Return the bytes of the feature maps (h, w, D) of a split; a view that a sample lacks takes its room."""
    return samples * views * sum(map(math.prod, maps.values())) * _STORED[dtype].itemsize


def as_stored(features: Float32[Array, "*n D"], dtype: str) -> Float32[Array, "*n D"]:
    """Return features as the cache gives them back: what is scored without it must be rounded like what is in it."""
    if dtype == "bfloat16":
        return jax.lax.reduce_precision(features, exponent_bits=8, mantissa_bits=7)
    return features
