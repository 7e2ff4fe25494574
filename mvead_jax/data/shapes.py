"""Images of another shape than their view had in training: they are stretched to the square that the backbone
sees, or were taken by another camera, and their scores are not those of the object.

    trained = training_sizes(index)   # {category: {view: sizes}}, kept with the model
    report_shapes(root, shape_problems(seen_images(new), trained), strict)
    words = check_shape("C1", image.size, trained["usb"], strict)
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mvead_jax.data.images import image_size
from mvead_jax.data.records import DatasetIndex, natural_key
from mvead_jax.runtime.errors import DataProblems, UserError

log = logging.getLogger(__name__)

Size = tuple[int, int]  # (width, height) of an upright image
Sizes = Mapping[str, Sequence[Sequence[int]]]  # view -> the (width, height) of its training images

_ALIKE = 1.02  # ratio of two aspects up to which images count as of one shape: a few pixels cut off
_MOST_SIZES = 8  # of a view that are kept, the most frequent first
_THREADS = 8


class SeenImage(NamedTuple):
    """An image that was opened: whose it is, its path below the root, and its (width, height)."""

    category: str
    view: str
    path: str
    size: Size


def training_sizes(index: DatasetIndex) -> dict[str, dict[str, list[list[int]]]]:
    """Return category -> view -> the sizes of its training images, from their headers; the most frequent
    first, as JSON takes it.

    Raises:
      UserError: an image that can't be opened.
    """
    return sizes_by_view(seen_images(index.select(split="train")))


def sizes_by_view(images: Iterable[SeenImage]) -> dict[str, dict[str, list[list[int]]]]:
    """Return what `training_sizes` returns, of images that were opened."""
    found: dict[str, dict[str, Counter[Size]]] = defaultdict(lambda: defaultdict(Counter))
    for image in images:
        found[image.category][image.view][image.size] += 1
    return {
        category: {
            view: [list(size) for size, _ in views[view].most_common(_MOST_SIZES)]
            for view in sorted(views, key=natural_key)
        }
        for category, views in sorted(found.items())
    }


def seen_images(index: DatasetIndex) -> list[SeenImage]:
    """Return the size of every image of an index, from its header.

    Raises:
      UserError: an image that can't be opened.
    """
    places = [(sample.category, view.name, view.image) for sample in index.samples for view in sample.views]
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda place: image_size(index.root / place[2]), places)
        return [SeenImage(*place, size) for place, size in zip(places, sizes, strict=True)]


def other_shape(view: str, size: Size, trained: Sizes) -> str | None:
    """Return how an image differs from the training images of its view, None if it does not.

    It differs in shape if its aspect is more than two per cent off that of all of them, and in size if they
    all had one and it has another.
    """
    sizes = trained.get(view)
    if not sizes or list(size) in [list(one) for one in sizes]:
        return None
    words = f"{size[0]} x {size[1]} pixels, in training {' or '.join(f'{w} x {h}' for w, h in sizes)}"
    if min(_ratio(size, one) for one in sizes) > _ALIKE:
        return f"another shape than in training ({words}): it is stretched; crop or turn it as there"
    return f"another size than in training ({words})" if len(sizes) == 1 else None


def shape_problems(images: Iterable[SeenImage], trained: Mapping[str, Sizes]) -> list[str]:
    """Return a line for each view of which images differ from its training images in one way."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for category, view, path, size in images:
        if words := other_shape(view, size, trained.get(category, {})):
            found[category, view, words].append(path)
    lines = []
    for (category, view, words), paths in found.items():
        count = "an image" if len(paths) == 1 else f"{len(paths)} images"
        lines.append(f"{category}: {count} of view {view} of {words}; the first is {paths[0]}")
    return sorted(lines, key=natural_key)


def report_shapes(where: object, problems: Sequence[str], strict: bool) -> None:
    """Say in the log what `shape_problems` found.

    Args:
      where: the data set, for the error. strict: data.strict.

    Raises:
      DataProblems: there is any, and `strict`.
    """
    if problems and strict:
        raise DataProblems(f"{where} (data.strict)", problems)
    for problem in problems:
        log.warning("%s", problem)


def check_shape(view: str, size: Size, trained: Sizes, strict: bool) -> str | None:
    """Return the warning about one image, None if it is as in training.

    Raises:
      UserError: it is not, and `strict`.
    """
    words = other_shape(view, size, trained)
    if words is None:
        return None
    if strict:
        raise UserError(f"view {view}: {words} (data.strict)")
    return f"view {view}: {words}"


def _ratio(size: Sequence[int], other: Sequence[int]) -> float:
    """Return by what factor two aspects differ, at least 1."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio)
