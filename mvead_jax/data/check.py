"""Whether a data set can be used: every picture and mask decoded, every problem found at once.

checked = check_data(Path("data/own"))
checked.problems; print(as_text(checked))
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.cells import cell_len

from mvead_jax.data.inventory import digests_of, groups_of_identical
from mvead_jax.data.loading import MASK_THRESHOLD, open_image
from mvead_jax.data.records import DatasetIndex, Listed, Sample, View, natural_key
from mvead_jax.data.source import layout_of, open_data, read_raw
from mvead_jax.runtime.errors import DataProblems, UserError, printable
from mvead_jax.runtime.progress import progress

FEWEST = 5  # training samples of a category, below which hardly anything is learned
_THREADS = 8

Size = tuple[int, int]  # (W, H)


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
      layout: of the data set. samples: those that could be listed.
      sizes: of each picture that could be decoded, by path.
      problems: what must be mended, a line each. notes: what should be known.
    """

    layout: str
    samples: Sequence[Sample]
    sizes: dict[str, Size]
    problems: Sequence[str]
    notes: Sequence[str]


def check_data(
    root: Path,
    categories: Sequence[str] = (),
    *,
    lists: str = "realiad_jsons",
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> Checked:
    """Reads all of a data set. Arguments as `source.open_data`.

    Raises:
      UserError: no such root, layout or category.
    """
    layout = layout_of(root)
    options = {"lists": lists, "images": images, "incomplete": incomplete}
    read = _read_prepared if layout == "prepared" else read_raw
    listed = read(root, categories, **options)
    sizes, problems = _decode(listed)
    problems = [*listed.problems, *problems, *_of_samples(listed.samples)]
    problems += _mixed_sizes(listed.samples, sizes)
    notes = list(listed.notes)
    readable = [
        replace(sample, views=tuple(view for view in sample.views if view.image in sizes))
        for sample in listed.samples
    ]
    across, within = groups_of_identical(readable, digests_of(DatasetIndex(listed.root, tuple(readable), ())))
    problems += [f"the same picture in train and test: {_named(group)}" for group in across]
    notes += [f"the same picture twice in a split: {_named(group)}" for group in within]
    if count := sum(sample.label == 1 and not any(v.mask for v in sample.views) for sample in listed.samples):
        notes.append(
            f"{count} defective samples have no mask: they count for sample metrics, their pixels for none"
        )
    return Checked(layout, listed.samples, sizes, problems, notes)


def as_text(checked: Checked) -> str:
    """The split table, the sizes of each view, the notes, and the problems."""
    rows = [("category", "split", "samples", "good", "defective", "unlabelled", "pictures", "masks")]
    sizes: dict[tuple[str, str], Counter[Size]] = defaultdict(Counter)
    by_split: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in checked.samples:
        by_split[sample.category, sample.split].append(sample)
        for view in sample.views:
            if view.image in checked.sizes:
                sizes[sample.category, view.name][checked.sizes[view.image]] += 1
    order = {"train": 0, "test": 1}
    for category, split in sorted(by_split, key=lambda key: (key[0], order[key[1]])):
        own = by_split[category, split]
        labels = Counter(sample.label for sample in own)
        views = [view for sample in own for view in sample.views]
        counts = (len(own), labels[0], labels[1], labels[None], len(views))
        masks = sum(view.mask is not None for view in views)
        rows.append((category, split, *map(str, (*counts, masks))))
    of_views = [("category", "view", "pictures", "width x height")]
    for category, view in sorted(sizes, key=lambda key: (key[0], natural_key(key[1]))):
        own = sizes[category, view]
        words = ", ".join(f"{w} x {h}: {count}" for (w, h), count in own.most_common())
        of_views.append((category, view, str(own.total()), words))
    parts = [f"layout: {checked.layout}", _table(rows), _table(of_views)]
    parts += [f"note: {printable(note)}" for note in checked.notes]
    if checked.problems:
        lines = [f"  {printable(problem)}" for problem in checked.problems]
        parts.append("\n".join([f"{len(lines)} problems:", *lines]))
    else:
        parts.append("no problems")
    return "\n\n".join(parts)


def _read_prepared(root: Path, categories: Sequence[str], **options: str) -> Listed:
    """As `read_raw`."""
    try:
        index = open_data(root, categories, **options)
    except DataProblems as error:
        return Listed(root, (), (), error.problems)
    return Listed(index.root, index.samples, index.notes, ())


def _decode(listed: Listed) -> tuple[dict[str, Size], list[str]]:
    """The size of each picture that can be read, and what is wrong with pictures and masks."""

    def look(view: View) -> tuple[Size | None, list[str]]:
        try:
            size = open_image(listed.root / view.image).size
        except UserError as error:
            return None, [_below(listed, error)]
        return size, _of_mask(listed, view, size)

    views = [view for sample in listed.samples for view in sample.views]
    sizes: dict[str, Size] = {}
    problems: list[str] = []
    with progress("decoding", len(views), "pictures") as bar, ThreadPoolExecutor(_THREADS) as pool:
        for view, (size, found) in zip(views, pool.map(look, views), strict=True):
            problems += found
            if size:
                sizes[view.image] = size
            bar.advance()
    return sizes, problems


def _of_mask(listed: Listed, view: View, size: Size) -> list[str]:
    """What is wrong with the mask of a picture of this size."""
    if view.mask is None:
        return []
    try:
        mask = open_image(listed.root / view.mask).convert("L")
    except UserError as error:
        return [_below(listed, error)]
    found = []
    if mask.size != size:
        found.append(
            f"{view.mask}: mask of {mask.width} x {mask.height} pixels, its picture has {size[0]} x "
            f"{size[1]}; take the mask that belongs to this picture"
        )
    brightest = mask.getextrema()[1]
    if brightest <= MASK_THRESHOLD:
        empty = f"nothing is above {MASK_THRESHOLD} of 255 ({brightest})" if brightest else "is empty"
        if view.label == 1:
            found.append(f"{view.mask}: {empty}, and {view.image} is labelled defective; mend one of them")
        elif brightest:
            found.append(f"{view.mask}: {empty}; write 0 and 255")
    elif view.label == 0:
        found.append(f"{view.mask}: marks a defect, and {view.image} is labelled normal; mend one of them")
    elif view.label is None:
        found.append(f"{view.mask}: marks a defect, and {view.image} has no label; label it 1")
    return found


def _below(listed: Listed, error: UserError) -> str:
    """The message with the path as the lists have it."""
    return str(error).removeprefix(f"{listed.root}/")


def _of_samples(samples: Sequence[Sample]) -> list[str]:
    """Too few to learn from, and parts whose masks say another thing than their folder."""
    counts = Counter({sample.category: 0 for sample in samples})
    counts.update(sample.category for sample in samples if sample.split == "train")
    found = [
        f"{category}: {count} training samples; at least {FEWEST} are needed, thirty or more are better"
        for category, count in sorted(counts.items())
        if count < FEWEST
    ]
    for sample in samples:
        labels = {view.label for view in sample.views}
        if sample.stated == 1 and labels == {0} and any(view.mask for view in sample.views):
            found.append(f"{sample.id}: defective, but all its masks are empty; mark it or delete its masks")
    return found


def _mixed_sizes(samples: Sequence[Sample], sizes: dict[str, Size]) -> list[str]:
    """Training views whose pictures differ in size: their geometry can't be one."""
    found: dict[tuple[str, str], Counter[Size]] = defaultdict(Counter)
    several = defaultdict(set)
    for sample in samples:
        for view in sample.views:
            several[sample.category].add(view.name)
            if sample.split == "train" and view.image in sizes:
                found[sample.category, view.name][sizes[view.image]] += 1
    return [
        f"{category}: training pictures of view {view} have {len(own)} sizes ("
        + ", ".join(f"{w} x {h}: {count}" for (w, h), count in own.most_common())
        + "); a camera has one, by which the geometry is estimated; crop or resize them alike"
        for (category, view), own in sorted(found.items())
        if len(own) > 1 and len(several[category]) > 1
    ]


def _named(group: Sequence[tuple[str, str]]) -> str:
    return ", ".join(path for _, path in group)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Plain columns; numbers stand right."""
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))  # some letters take two places
            cells.append(space + cell if rows[-1][at].isdigit() else cell + space)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
