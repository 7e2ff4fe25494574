"""The cache of patch features: chunk files that are named by all that their numbers depend on.

Each holds [s,V,N,D] of a run of whole samples. Its name is the digest of the backbone (weights, block,
precision, sizes, code), the preprocessing, device kind, JAX, and the SHA-256 of its pictures
(data/digests.py, whose records lie beside the chunks). So another picture or setting makes another name, and
a chunk is written to a temporary name first: what has the right name was right and whole. It ends in the
SHA-256 of its name and all its bytes: what has changed on the disk since, or was swapped, is found before it
is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from mvead_jax.runtime.sharding import from_first, is_first, same_in_all, together

log = logging.getLogger(__name__)

_CHUNK_SAMPLES = 16
_VERSION = 3  # of the file format and its name
_SEAL = hashlib.sha256().digest_size  # bytes at the end of a chunk
_STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


@dataclass(frozen=True)
class Chunk:
    """A file [s,V,N,D] of the features of some samples, which may not be there yet."""

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

    def write(self, features: Float32[np.ndarray, "s V N D"], dtype: str) -> None:
        """Raises UserError if the disk refuses."""
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
        """As a run wants them."""
        cache = cache_folder(config, workdir)
        return cls(index, backbone, config.features, cache, config.backbone.batch_size)

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
        """Of each picture by its path: its state, as this process sees it, and its SHA-256, which the first
        process reads. All must call.

        Raises:
          DataProblems: every picture that can't be read.
          UserError: the processes see different pictures.
        """
        root, paths = self.index.root, image_paths(self.index.samples)
        with together():
            seen = file_states(root, paths)
            digests = file_digests(root, paths, seen, self.cache) if is_first() else None
        known = [state[1:3] or state for state in seen]  # size and time; a place or an inode may be its own
        same_in_all(
            hashlib.sha256(json.dumps([paths, known]).encode()).hexdigest(),
            f"{root}: the processes see different pictures; let all read one copy of the data set",
        )
        return dict(zip(paths, zip(seen, from_first(digests), strict=True), strict=True))

    def chunks(self, digests: Mapping[str, str]) -> list[Chunk]:
        """The chunks that hold the features. digests: the SHA-256 of each picture by its path."""
        samples = self.index.samples
        runs = [samples[at : at + _CHUNK_SAMPLES] for at in range(0, len(samples), _CHUNK_SAMPLES)]
        return [Chunk(run, self.cache / f"{self.digest(run, digests)}.npy") for run in runs]

    def digest(self, samples: Sequence[Sample], digests: Mapping[str, str]) -> str:
        """The name of a chunk. Images in a pass and device are in it because they decide the last bits."""
        files = [
            [sample.id, view.name, view.image, digests[view.image]]
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
        """SHA-256 of all that the features depend on, without computing them. All processes must call; errors
        as of `pictures`."""
        digests = {path: digest for path, (_, digest) in self.pictures().items()}
        names = [chunk.path.stem for chunk in self.chunks(digests)]
        return hashlib.sha256(" ".join(names).encode()).hexdigest()

    def cached(self) -> list[Chunk]:
        """The chunks that are there. Reads no picture: of those that were not read before it finds none."""
        paths = image_paths(self.index.samples)
        digests = recorded_digests(file_states(self.index.root, paths), self.cache)
        if digests is None:
            return []
        return [one for one in self.chunks(dict(zip(paths, digests, strict=True))) if one.path.exists()]

    def cached_bytes(self) -> int:
        """Of the chunks that are there."""
        return sum(chunk.path.stat().st_size for chunk in self.cached())


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
