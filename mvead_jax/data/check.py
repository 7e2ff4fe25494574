"""Whether a data set can be used: every image and mask decoded, every problem found at once.

checked = check_data(Path("data/own"))
checked.problems; print(as_text(checked))     # check_text.py
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.bit_depth import depth_words, largest_values
from mvead_jax.data.deep_images import bits_of
from mvead_jax.data.file_check import SeenMask, mask_notes, mask_of_view
from mvead_jax.data.images import open_image
from mvead_jax.data.inventory import digests_of, groups_of_identical
from mvead_jax.data.masks import MASK_THRESHOLD, too_dark
from mvead_jax.data.readers import AUTO, odd_counts, read_data, source_words
from mvead_jax.data.records import DatasetIndex, Sample, View, build_index, view_names
from mvead_jax.data.shapes import SeenImage, Size, shape_problems, sizes_by_view
from mvead_jax.data.sufficient import empty_metrics, too_few
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress

_THREADS = 8


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
      source: which reader and lists, in words (readers.source_words).
      samples: those that could be listed.
      sizes: of each image that could be decoded, by path.
      problems: what must be mended, a line each. notes: what should be known.
    """

    source: dict[str, str]
    samples: Sequence[Sample]
    sizes: dict[str, Size]
    problems: Sequence[str]
    notes: Sequence[str]


@dataclass
class _Decoded:
    """What decoding an index found: as Checked, and every mask that can be read."""

    sizes: dict[str, Size]
    masks: list[SeenMask]
    problems: list[str]


def check_data(root: str | Path, categories: Sequence[str] = (), **fields: Any) -> Checked:
    """Read all of a data set.

    Args:
      root, categories, fields: as the fields of DataConfig.

    Raises:
      UserError: no such root, layout or category.
    """
    config = DataConfig(root=str(root), categories=tuple(categories), **fields)
    listing = read_data(config)
    index = build_index(listing.root, listing.samples)
    bits, notes = _bit_depth(config, index)
    index = replace(index, bit_depth=bits)
    decoded = _decode(index)
    sizes = decoded.sizes
    problems = [*listing.problems, *decoded.problems, *_of_samples(index.samples)]
    problems += _mixed_sizes(index.samples, sizes)
    notes = [*listing.notes, *notes, *mask_notes(decoded.masks), *odd_counts(config, index.samples)]
    (problems if config.strict else notes).extend(_shapes(index.samples, sizes))
    readable = [
        replace(sample, views=tuple(view for view in sample.views if view.image in sizes))
        for sample in index.samples
    ]
    across, within = groups_of_identical(readable, digests_of(replace(index, samples=tuple(readable))))
    problems += [f"the same image in train and test: {_named(group)}" for group in across]
    notes += [f"the same image twice in a split: {_named(group)}" for group in within]
    count = sum(sample.label == 1 and not any(v.mask for v in sample.views) for sample in index.samples)
    if count and not listing.problems:  # a mask that was refused is a problem, and not missing
        notes.append(
            f"{count} defective samples have no mask: they count for sample metrics, their pixels for none"
        )
    problems = list(dict.fromkeys(problems))  # views that are parts of one file share what is wrong with it
    notes += empty_metrics(index.samples)
    return Checked(source_words(config, view_names(index.samples)), index.samples, sizes, problems, notes)


def _bit_depth(config: DataConfig, index: DatasetIndex) -> tuple[int, list[str]]:
    """Return how many bits images of 16 bits are read with, and a note on it if there are any."""
    if config.bit_depth != AUTO:
        return int(config.bit_depth), []
    largest = largest_values(index)
    return (bits_of(max(largest)), [depth_words(largest)]) if largest else (8, [])


def _decode(index: DatasetIndex) -> _Decoded:
    """Return the size of each image that can be read, the masks, and what is wrong with either."""

    def look(view: View) -> tuple[Size | None, SeenMask | None, list[str]]:
        try:
            size = open_image(index.root / view.image, index.bit_depth).size
        except UserError as error:
            return None, None, [_below(index, str(error))]
        mask, problems = mask_of_view(index.root, view, size)
        problems = [_below(index, problem) for problem in problems]
        return size, mask, problems + (_contradictions(view, mask) if mask else [])

    views = [view for sample in index.samples for view in sample.views]
    found = _Decoded({}, [], [])
    with progress("decoding", len(views), "images") as bar, ThreadPoolExecutor(_THREADS) as pool:
        for view, (size, mask, problems) in zip(views, pool.map(look, views), strict=True):
            found.problems += problems
            found.masks += [mask] if mask else []
            if size:
                found.sizes[view.image] = size
            bar.advance()
    return found


def _contradictions(view: View, mask: SeenMask) -> list[str]:
    """Return what a mask and the label of its view say differently."""
    brightest = mask.facts.brightest
    if brightest <= MASK_THRESHOLD:
        empty = f"nothing is above {MASK_THRESHOLD} of 255 ({brightest})" if brightest else "is empty"
        if view.label == 1:
            return [f"{view.mask}: {empty}, and {view.image} is labelled defective; mend one of them"]
        return [f"{view.mask}: {too_dark(mask.facts)}"] if brightest else []
    if view.label == 0:
        return [f"{view.mask}: marks a defect, and {view.image} is labelled normal; mend one of them"]
    if view.label is None:
        return [f"{view.mask}: marks a defect, and {view.image} has no label; label it 1"]
    return []


def _below(index: DatasetIndex, message: str) -> str:
    """Return a message with the path as the lists have it."""
    return message.removeprefix(f"{index.root}/")


def _of_samples(samples: Sequence[Sample]) -> list[str]:
    """Return what is wrong with whole samples: too few to learn from, and samples whose masks say another
    thing than their folder."""
    found = too_few(samples)
    for sample in samples:
        labels = {view.label for view in sample.views}
        if sample.sample_label == 1 and labels == {0} and any(view.mask for view in sample.views):
            found.append(f"{sample.id}: defective, but all its masks are empty; mark it or delete its masks")
    return found


def _mixed_sizes(samples: Sequence[Sample], sizes: dict[str, Size]) -> list[str]:
    """Return the training views whose images differ in size: their geometry can't be one."""
    found: dict[tuple[str, str], Counter[Size]] = defaultdict(Counter)
    several = defaultdict(set)
    for sample in samples:
        for view in sample.views:
            several[sample.category].add(view.name)
            if sample.split == "train" and view.image in sizes:
                found[sample.category, view.name][sizes[view.image]] += 1
    return [
        f"{category}: training images of view {view} have {len(own)} sizes ("
        + ", ".join(f"{w} x {h}: {count}" for (w, h), count in own.most_common())
        + "); a camera has one, by which the geometry is estimated; crop or resize them alike"
        for (category, view), own in sorted(found.items())
        if len(own) > 1 and len(several[category]) > 1
    ]


def _shapes(samples: Sequence[Sample], sizes: dict[str, Size]) -> list[str]:
    """Return the views whose test images have another shape than their training images."""
    images: dict[str, list[SeenImage]] = defaultdict(list)
    for sample in samples:
        for view in sample.views:
            if view.image in sizes:
                images[sample.split].append(
                    SeenImage(sample.category, view.name, view.image, sizes[view.image])
                )
    return shape_problems(images["test"], sizes_by_view(images["train"]))


def _named(group: Sequence[tuple[str, str]]) -> str:
    return ", ".join(path for _, path in group)
