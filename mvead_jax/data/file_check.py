"""Every image and mask of an index looked at before a job that takes hours: what is wrong comes at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mvead_jax.data.image_files import ImageFolder, folder_of
from mvead_jax.data.images import image_size
from mvead_jax.data.masks import MASK_THRESHOLD, MOST_MARKED, MaskFacts, mask_facts, too_dark
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.progress import progress

log = logging.getLogger(__name__)

_THREADS = 8


class SeenMask(NamedTuple):
    """A mask below the data set's root, and what it marks."""

    path: str
    facts: MaskFacts


def check_files(index: DatasetIndex) -> None:
    """Open the header of every image, and decode every mask. Prepared data went through it before.

    Masks that may be meant otherwise are said in the log (`mask_notes`).

    Raises:
      DataProblems: every file that is no image, every mask whose size is not that of its image, and every
        mask that brightness alone does not read (masks.py).
    """
    if folder_of(index.root) is None:
        return
    found: list[str] = []
    masks: list[SeenMask] = []
    with (
        progress("checking files", len(index), "samples") as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for problems, seen in pool.map(lambda sample: _look(index.root, sample), index.samples):
            found += problems
            masks += seen
            bar.advance()
    if found:
        raise DataProblems(str(index.root), found)
    for note in mask_notes(masks):
        log.warning("%s: %s", index.root, note)


def mask_of_view(root: ImageFolder, view: View, size: tuple[int, int]) -> tuple[SeenMask | None, list[str]]:
    """Return what the mask of a view marks, None if it has none or it can't be read, and what is wrong with
    it whatever its label says.

    Args:
      size: (width, height) of the upright image.
    """
    if view.mask is None:
        return None, []
    try:
        facts = mask_facts(root / view.mask)
    except UserError as error:
        return None, [str(error)]
    if facts.size == size:
        return SeenMask(view.mask, facts), []
    return SeenMask(view.mask, facts), [
        f"{root / view.mask}: mask of {facts.size[0]} x {facts.size[1]} pixels, its image has "
        f"{size[0]} x {size[1]}; take the mask that belongs to this image"
    ]


def mask_notes(masks: Iterable[SeenMask]) -> list[str]:
    """Return what masks may mean otherwise: more than half of an image marked, as in an inverted mask, and
    regions that are nowhere bright enough to count."""
    large = [mask for mask in masks if mask.facts.marked > MOST_MARKED]
    faint = [mask for mask in masks if mask.facts.faint]
    notes = []
    if large:
        first = f"{large[0].path} marks {large[0].facts.marked:.0%}"
        notes.append(
            f"{_count(large)} more than half of the image ({first}): white is what is defective; are they "
            "inverted?"
        )
    if faint:
        first = f"{faint[0].path} has {faint[0].facts.faint}"
        notes.append(
            f"{_count(faint)} regions that are nowhere above {MASK_THRESHOLD} of 255 ({first}): they count "
            "as normal"
        )
    return notes


def _count(masks: Sequence[SeenMask]) -> str:
    return "1 mask marks" if len(masks) == 1 else f"{len(masks)} masks mark"


def _look(root: ImageFolder, sample: Sample) -> tuple[list[str], list[SeenMask]]:
    """Return the problems of the files of a sample, and its masks."""
    problems, masks = [], []
    for view in sample.views:
        try:
            size = image_size(root / view.image)
        except UserError as error:
            problems.append(str(error))
            continue
        mask, own = mask_of_view(root, view, size)
        problems += own
        if mask is not None:
            masks.append(mask)
            if mask.facts.flat:
                problems.append(f"{root / view.mask}: {too_dark(mask.facts)}")
    return problems, masks
