"""What is in a data set: counts by split, class, view and defect, base rates, and what is odd about it.

    report = data_report(index, "realiad_jsons", digests_of(index))
    as_markdown(report)

OK and NG of an image are its own label: an image of a defective sample in which the defect does not show is
OK. The kind of defect is that of the sample's name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mvead_jax.data.image_files import digest
from mvead_jax.data.records import DatasetIndex, Sample, defect_code, natural_key
from mvead_jax.data.sample_rules import incomplete_samples
from mvead_jax.runtime.progress import progress

SPLITS = ("train", "test")
_LISTED = 20  # groups of identical images that are named


def digests_of(index: DatasetIndex) -> dict[str, str]:
    """Return the SHA-256 of every image by path. It reads all files; prepared data knows them.

    Raises:
      UserError: a file that can't be read.
    """
    paths = [view.image for sample in index.samples for view in sample.views]
    with progress("comparing images", len(paths), "images") as bar, ThreadPoolExecutor(4) as pool:
        found = {}
        for path, value in zip(paths, pool.map(lambda path: digest(index.root / path), paths), strict=True):
            found[path] = value
            bar.advance()
    return found


def data_report(index: DatasetIndex, lists: str, digests: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return JSON: {"lists", "categories": {name: {split: counts}}, "total": {split: counts}, "identical"}.

    Counts of a split: samples, images and masks, "by_view", "by_defect", base rates (the share that is NG
    among those that are labelled), samples that lack a view, and defective samples without any mask.

    Args:
      index: with its incomplete samples.
      lists: folder of the lists, on which the counts depend.
      digests: of `digests_of`; without them nothing is said of identical images.
    """
    lacking = set()
    parts = {category: index.select(category=category) for category in index.categories}
    for part in parts.values():
        lacking |= {id(sample) for sample, _ in incomplete_samples(part.samples)}

    def counts(part: DatasetIndex) -> dict[str, Any]:
        return {split: _counts(part.select(split=split).samples, part.views, lacking) for split in SPLITS}

    return {
        "lists": lists,
        "categories": {category: counts(part) for category, part in parts.items()},
        "total": counts(index),
        "identical": None if digests is None else identical_images(index.samples, digests),
    }


Group = list[tuple[str, str]]  # (split, path) of images of the same bytes


def groups_of_identical(
    samples: Sequence[Sample], digests: Mapping[str, str]
) -> tuple[list[Group], list[Group]]:
    """Return the images of the same bytes: groups across splits (of any categories), and groups within
    one."""
    groups: dict[str, Group] = defaultdict(list)
    for sample in samples:
        for view in sample.views:
            groups[digests[view.image]].append((sample.split, view.image))
    repeated = [sorted(group) for group in groups.values() if len(group) > 1]
    across = sorted(group for group in repeated if len({split for split, _ in group}) > 1)
    within = sorted(group for group in repeated if len({split for split, _ in group}) == 1)
    return across, within


def identical_images(samples: Sequence[Sample], digests: Mapping[str, str]) -> dict[str, Any]:
    """Return JSON of the images of the same bytes: how many groups of them lie within a split and how many
    across splits (of any categories), and the first groups, those across splits before the others."""
    across, within = groups_of_identical(samples, digests)
    return {
        "across_splits": len(across),
        "within_a_split": len(within),
        "images": sum(map(len, across + within)),
        "first": [[f"{split}: {path}" for split, path in group] for group in (across + within)[:_LISTED]],
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as tables."""
    parts = [f"# Data report\n\nLists: {report['lists']}. A base rate is the share that is defective (NG)."]
    rows = {**report["categories"], "total": report["total"]}
    for split in SPLITS:
        own = {name: counts[split] for name, counts in rows.items() if counts[split]["samples"]}
        if own:
            parts += [f"## {split}", _table(_COLUMNS, {name: _row(counts) for name, counts in own.items()})]
            parts.append(_breakdown("view", "images: OK / NG", own, "by_view", ("images_ok", "images_ng")))
        if any(counts["by_defect"] for counts in own.values()):
            parts.append(
                _breakdown("defect", "samples / NG images", own, "by_defect", ("samples", "images_ng"))
            )
    if same := report["identical"]:
        parts.append(_identical(same))
    return "\n\n".join(parts) + "\n"


def _identical(same: Mapping[str, Any]) -> str:
    text = (
        f"## Identical images\n\n{same['images']:,} images share their bytes with another one: "
        f"{same['across_splits']:,} groups across splits, {same['within_a_split']:,} within a split."
    )
    return "\n".join([text, *([""] if same["first"] else []), *(f"- {', '.join(g)}" for g in same["first"])])


def _counts(samples: Sequence[Sample], names: Sequence[str], lacking: Container[int]) -> dict[str, Any]:
    """Return the counts of the samples of one split.

    Args:
      names: of the views.
      lacking: id() of the samples that lack a view of their category.
    """
    views = [view for sample in samples for view in sample.views]
    by_view = {name: {"images_ok": 0, "images_ng": 0} for name in names}
    by_defect: dict[str, dict[str, int]] = {}
    for view in views:
        _add(by_view[view.name], _OF_LABEL[view.label])
    for sample in samples:
        if kind := defect_code(sample.id):
            counts = by_defect.setdefault(kind, {"samples": 0, "images_ok": 0, "images_ng": 0})
            _add(counts, "samples")
            for view in sample.views:
                _add(counts, _OF_LABEL[view.label])
    ng = [sample for sample in samples if sample.label == 1]
    counts = {
        "samples": len(samples),
        "samples_ok": sum(sample.label == 0 for sample in samples),
        "samples_ng": len(ng),
        "images": len(views),
        "images_ok": sum(view.label == 0 for view in views),
        "images_ng": sum(view.label == 1 for view in views),
        "images_ok_of_ng_samples": sum(view.label == 0 for sample in ng for view in sample.views),
        "masks": sum(view.mask is not None for view in views),
        "incomplete_samples": sum(id(sample) in lacking for sample in samples),
        "ng_samples_without_mask": sum(not any(view.mask for view in sample.views) for sample in ng),
        "by_view": by_view,
        "by_defect": {name: by_defect[name] for name in sorted(by_defect)},
    }
    for level in ("samples", "images"):
        labelled = counts[f"{level}_ok"] + counts[f"{level}_ng"]
        counts[f"base_rate_{level}"] = counts[f"{level}_ng"] / labelled if labelled else None
    return counts


_OF_LABEL = {0: "images_ok", 1: "images_ng", None: "images_unlabelled"}


def _add(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


_COLUMNS = {
    "samples": "samples",
    "samples_ok": "OK",
    "samples_ng": "NG",
    "base_rate_samples": "base rate",
    "images": "images",
    "images_ok": "OK",
    "images_ng": "NG",
    "base_rate_images": "base rate",
    "masks": "masks",
    "ng_samples_without_mask": "NG samples without mask",
    "incomplete_samples": "incomplete samples",
}


def _row(counts: Mapping[str, Any]) -> list[str]:
    cells = []
    for key in _COLUMNS:
        value = counts[key]
        cells.append(
            "-" if value is None else f"{100 * value:.1f} %" if key.startswith("base") else f"{value:,}"
        )
    return cells


def _breakdown(
    what: str, cells: str, rows: Mapping[str, Mapping[str, Any]], key: str, pair: tuple[str, str]
) -> str:
    names = sorted({name for counts in rows.values() for name in counts[key]}, key=natural_key)
    lines = {}
    for row, counts in rows.items():
        own = [counts[key].get(name) for name in names]
        lines[row] = ["-" if one is None else f"{one[pair[0]]:,} / {one[pair[1]]:,}" for one in own]
    return f"By {what} ({cells}):\n\n" + _table(dict(zip(names, names, strict=True)), lines)


def _table(columns: Mapping[str, str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [["category", *columns.values()], ["---", *("--:" for _ in columns)]]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
