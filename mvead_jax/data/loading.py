"""Images of a data set -> float32 arrays of whole samples."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from mvead_jax.data.images import upright
from mvead_jax.data.mirroring import open_view
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.runtime.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREPROCESSING_VERSION = 1  # part of every feature cache key: raise it when an array changes

_THREADS = 8


class LoadedSample(TypedDict):
    """One sample of the pipeline: `images` [V,S,S,3] (zeros where a view is missing), `present` [V], its
    `position` in the index, and `problem`: why it could not be read, or the empty text."""

    images: Float32[np.ndarray, "V S S 3"]
    present: Bool[np.ndarray, " V"]
    position: int
    problem: str


def preprocess(image: Image.Image, size: int, bit_depth: int = 8) -> Float32[np.ndarray, "size size 3"]:
    """Return the image resized without cropping (bicubic, antialiased) and normalised by ImageNet's
    statistics.

    Bit for bit what transformers' BitImageProcessorPil gives for size {height, width}, no crop.

    Args:
      image: as `open_image` returns it; another one is made 8-bit RGB first. bit_depth: as of `open_image`.
    """
    if image.mode != "RGB":
        deep = image.mode.startswith(("I", "F"))  # which Pillow would cut off at 255
        image = upright(image, "image", bit_depth) if deep else image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    levels = np.asarray(image)
    table = _normalised_levels()
    return np.stack([table[channel][levels[..., channel]] for channel in range(3)], axis=-1)


def load_sample(index: DatasetIndex, sample: Sample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (images [V,size,size,3], present [V]) of one sample, views in the index's order."""
    images = np.zeros((len(index.views), size, size, 3), np.float32)
    present = np.zeros(len(index.views), bool)
    for view in sample.views:
        at = index.views.index(view.name)
        images[at] = preprocess(open_view(index, view), size)
        present[at] = True
    return images, present


def sample_pipeline(
    index: DatasetIndex, size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
) -> grain.MapDataset:
    """Return whole samples, each once; in the index's order, or in an order that (seed, epoch) fixes.

    Random access: element i is a LoadedSample. An image that can't be read is a `problem` of its sample, so
    that one damaged file does not hide the next.
    """

    def load(position: int) -> LoadedSample:
        try:
            images, present = load_sample(index, index.samples[position], size)
        except UserError as error:
            images = np.zeros((len(index.views), size, size, 3), np.float32)
            return LoadedSample(
                images=images, present=np.zeros(len(images), bool), position=position, problem=str(error)
            )
        return LoadedSample(images=images, present=present, position=position, problem="")

    order = np.arange(len(index))
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    return grain.MapDataset.source(order.tolist()).map(load)


def iterate(pipeline: grain.MapDataset, threads: int = _THREADS) -> Iterator[LoadedSample]:
    """Return the elements in order, read ahead by threads (decoding releases Python's lock)."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(pipeline.to_iter_dataset(options))


@functools.cache
def _normalised_levels() -> Float32[np.ndarray, "3 256"]:
    """Return the float32 value of each 8-bit level; the order and width of every operation are those of
    transformers."""
    scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(IMAGENET_MEAN, np.float32)[:, None], np.array(IMAGENET_STD, np.float32)[:, None]
    return (scaled - mean) / std
