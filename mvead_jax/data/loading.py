"""Pictures on disk -> float32 arrays of whole samples."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from mvead_jax.data.pictures import Picture
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.progress import progress

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREPROCESSING_VERSION = 1  # part of every feature cache key: raise it when an array changes

MASK_THRESHOLD = 127  # of 255; what is brighter is a defect

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_MOST_PIXELS = 80_000_000  # below Pillow's own warning
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_THREADS = 8


class LoadedSample(TypedDict):
    """One sample of the pipeline: `images` [V,S,S,3] (zeros where a view is missing), `present` [V], its
    `position` in the index, and `problem`: why it could not be read, or the empty text."""

    images: Float32[np.ndarray, "V S S 3"]
    present: Bool[np.ndarray, " V"]
    position: int
    problem: str


def open_image(path: Picture) -> Image.Image:
    """The picture as 8-bit RGB, upright.

    Raises:
      UserError: not a picture, damaged, too large, or more than 8 bits a channel; names the path.
    """
    with _opened(path) as image:
        return upright(image, str(path))


def upright(image: Image.Image, name: str) -> Image.Image:
    """An opened picture as 8-bit RGB, turned as its EXIF says.

    Args and raises as `open_image`; `name`: in messages.
    """
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{name}: {image.mode} pixels; convert the picture to 8 bits a channel")
    turn = _TURNS.get(_orientation(image))
    try:
        image.load()
    except MemoryError:
        raise UserError(
            f"{name}: {image.width} x {image.height} pixels are too many for the memory"
        ) from None
    except Exception as error:  # Pillow's parsers fail in many ways
        raise UserError(f"{name}: damaged {image.format} picture ({_reason(error)}); copy it again") from None
    try:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # or Pillow warns; what shows through is dropped either way
        return (image if turn is None else image.transpose(turn)).convert("RGB")
    except Exception as error:  # no way from these colours, or no memory
        raise UserError(f"{name}: {_reason(error)}; save the picture as RGB") from None


def image_size(path: Picture) -> tuple[int, int]:
    """(width, height) of the upright picture from its header alone. Raises as `open_image`."""
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def mask_label(path: Picture) -> int:
    """1 if the mask marks a defect, 0 if all of it is black.

    Raises:
      UserError: as `open_image`; or it is neither, as masks of 0 and 1 in place of 0 and 255 are.
    """
    brightest = open_image(path).convert("L").getextrema()[1]
    if 0 < brightest <= MASK_THRESHOLD:
        raise UserError(
            f"{path}: its brightest pixel is {brightest} of 255, a defect is above "
            f"{MASK_THRESHOLD}; write 0 and 255"
        )
    return int(brightest > 0)


def preprocess(image: Image.Image, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Resizes without cropping (bicubic, antialiased) and applies ImageNet's statistics.

    Bit for bit what transformers' BitImageProcessorPil gives for size {height, width}, no crop.
    """
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    levels = np.asarray(image)
    table = _normalised_levels()
    return np.stack([table[channel][levels[..., channel]] for channel in range(3)], axis=-1)


def load_sample(index: DatasetIndex, sample: Sample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(images [V,size,size,3], present [V]) of one sample, views in the index's order."""
    images = np.zeros((len(index.views), size, size, 3), np.float32)
    present = np.zeros(len(index.views), bool)
    for view in sample.views:
        at = index.views.index(view.name)
        images[at] = preprocess(open_image(index.root / view.image), size)
        present[at] = True
    return images, present


def sample_pipeline(
    index: DatasetIndex, size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
) -> grain.MapDataset:
    """Whole samples, each once; in the index's order, or in an order that (seed, epoch) fixes.

    Random access: element i is a LoadedSample. A picture that can't be read is a `problem` of its sample,
    so that one damaged file does not hide the next.
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
    """Elements in order, read ahead by threads (decoding releases Python's lock)."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(pipeline.to_iter_dataset(options))


def check_files(index: DatasetIndex) -> None:
    """Opens the header of every picture and mask; decodes nothing. Prepared data went through it before.

    Raises:
      DataProblems: every file that is no picture, and every mask whose size is not its picture's.
    """

    def problems(sample: Sample) -> list[str]:
        found = []
        for view in sample.views:
            try:
                size = image_size(index.root / view.image)
                if view.mask is not None and (own := image_size(index.root / view.mask)) != size:
                    found.append(
                        f"{index.root / view.mask}: mask of {own[0]} x {own[1]} pixels, its picture has "
                        f"{size[0]} x {size[1]}; take the mask that belongs to this picture"
                    )
            except UserError as error:
                found.append(str(error))
        return found

    if not isinstance(index.root, Path):
        return
    found: list[str] = []
    with (
        progress("checking files", len(index), "samples") as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for sample_problems in pool.map(problems, index.samples):
            found += sample_problems
            bar.advance()
    if found:
        raise DataProblems(str(index.root), found)


def _opened(path: Picture) -> Image.Image:
    try:
        # Pillow closes the file of a path itself.
        image = Image.open(path if isinstance(path, Path) else path.open("rb"), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not a picture in {', '.join(_FORMATS)}; put the picture there") from None
    except Exception as error:  # Pillow's parsers fail in many ways
        raise UserError(f"{path}: {_reason(error)}") from None
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise UserError(f"{path}: {image.width} x {image.height} pixels; at most {_MOST_PIXELS} are read")
    if why := _holds_more(image):
        image.close()
        raise UserError(f"{path}: {why}")
    return image


def _holds_more(image: Image.Image) -> str | None:
    """Why an animation or a file of pages can't be used, or None.

    Of a JPEG with others behind it (MPO: a preview, a second eye) the first is the picture, by the standard
    and in every viewer.
    """
    try:
        if image.format == "TIFF":
            image.seek(1)  # n_frames would walk through all pages, and a file may hold millions
        elif image.format not in ("PNG", "WEBP") or image.n_frames == 1:
            return None
    except EOFError:
        return None  # there is no second page
    except Exception:  # Pillow's parsers fail in many ways
        return "a damaged list of pages; save the picture again"
    return "several pictures in one file; save the one that is meant"


def _orientation(image: Image.Image) -> int:
    """How the camera was held: EXIF's 1 (upright) to 8; 1 where the header does not say."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFFs itself
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole picture to look for it
    try:
        value = image.getexif().get(0x0112)
    except Exception:  # a damaged tag must not make a good picture unreadable, and fails in many ways
        return 1
    return value if value in _TURNS else 1


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@functools.cache
def _normalised_levels() -> Float32[np.ndarray, "3 256"]:
    """The float32 value of each 8-bit level; the order and width of every operation are transformers'."""
    scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(IMAGENET_MEAN, np.float32)[:, None], np.array(IMAGENET_STD, np.float32)[:, None]
    return (scaled - mean) / std
