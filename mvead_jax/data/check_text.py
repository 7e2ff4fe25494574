"""What a check of a data set found, as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.cells import cell_len

from mvead_jax.data.check import Checked
from mvead_jax.data.records import Sample, natural_key
from mvead_jax.data.shapes import Size
from mvead_jax.runtime.errors import by_kind, printable


def as_text(checked: Checked) -> str:
    """Return the reader and its lists, the table of splits, the sizes of each view, the notes, and the
    problems."""
    source = checked.source
    parts = [
        f"read as {source['reader']} (data.reader); lists: {source['lists']}; {source['list_views']}",
        _table(_splits(checked.samples)),
        _table(_views(checked)),
        *(f"note: {note}" for note in by_kind(checked.notes)),
    ]
    parts = [printable(part) if part.startswith(("note: ", "read as ")) else part for part in parts]
    if checked.problems:
        lines = [f"  {printable(problem)}" for problem in by_kind(checked.problems)]
        parts.append("\n".join([f"{len(checked.problems)} problems:", *lines]))
    else:
        parts.append("no problems")
    return "\n\n".join(parts)


def _splits(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Return the rows of the table of splits."""
    rows = [("category", "split", "samples", "good", "defective", "unlabelled", "images", "masks")]
    by_split: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_split[sample.category, sample.split].append(sample)
    order = {"train": 0, "test": 1}
    for category, split in sorted(by_split, key=lambda key: (key[0], order[key[1]])):
        own = by_split[category, split]
        labels = Counter(sample.label for sample in own)
        views = [view for sample in own for view in sample.views]
        counts = (len(own), labels[0], labels[1], labels[None], len(views))
        masks = sum(view.mask is not None for view in views)
        rows.append((category, split, *map(str, (*counts, masks))))
    return rows


def _views(checked: Checked) -> list[tuple[str, ...]]:
    """Return the rows of the table of views."""
    sizes: dict[tuple[str, str], Counter[Size]] = defaultdict(Counter)
    for sample in checked.samples:
        for view in sample.views:
            if view.image in checked.sizes:
                sizes[sample.category, view.name][checked.sizes[view.image]] += 1
    rows = [("category", "view", "images", "width x height")]
    for category, view in sorted(sizes, key=lambda key: (key[0], natural_key(key[1]))):
        own = sizes[category, view]
        words = ", ".join(f"{w} x {h}: {count}" for (w, h), count in own.most_common())
        rows.append((category, view, str(own.total()), words))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return plain columns; numbers stand right."""
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))  # some letters take two places
            cells.append(space + cell if rows[-1][at].isdigit() else cell + space)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
