"""What readers of every layout ask of the samples that they found."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from mvead_jax.data.records import Incomplete, Sample, view_names
from mvead_jax.data.safe_paths import normal_form
from mvead_jax.runtime.errors import UserError

MOST_VIEWS = 16  # of a category


def chosen_categories(root: object, categories: Sequence[str], found: Collection[str]) -> list[str]:
    """Return the categories asked for, all of `found` if none is named; sorted.

    A name is found in whatever way it spells its letters (é as one code point or as two).

    Raises:
      UserError: a category that is not there.
    """
    by_form = {normal_form(name): name for name in found}
    for category in categories:
        if normal_form(category) not in by_form:
            close = difflib.get_close_matches(category, list(found), n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise UserError(f"unknown category {category!r}{hint} {root} holds: {', '.join(sorted(found))}")
    return sorted({by_form[normal_form(category)] for category in categories} or found)


def incomplete_samples(samples: Sequence[Sample]) -> list[tuple[Sample, list[str]]]:
    """Return the samples of one category that lack views which other samples of it have, with the names of
    the missing views."""
    names = view_names(samples)
    found = []
    for sample in samples:
        missing = [name for name in names if name not in {view.name for view in sample.views}]
        if missing:
            found.append((sample, missing))
    return found


def handle_views(samples: list[Sample], policy: Incomplete) -> tuple[list[Sample], list[str], list[str]]:
    """Return the same as `handle_incomplete` for layouts in which people name the views: more views than a
    rig has come of a wrong name in every sample, and are one problem instead of thousands."""
    names = view_names(samples)
    if len(names) > MOST_VIEWS:
        few = f"{len(names)} views ({', '.join(names[:3])}, ...), at most {MOST_VIEWS}"
        return samples, [], [f"{few}: a view has one name in all samples; rename the files"]
    return handle_incomplete(samples, policy)


def handle_incomplete(samples: list[Sample], policy: Incomplete) -> tuple[list[Sample], list[str], list[str]]:
    """Return what data.incomplete makes of the samples of one category: the samples that stay, notes, and
    problems."""
    lacking = incomplete_samples(samples)
    if not lacking:
        return samples, [], []
    count, category = len(lacking), samples[0].category
    if policy == "keep":
        return samples, [f"{category}: {count} samples lack a view and are kept"], []
    if policy == "drop":
        left_out = {id(sample) for sample, _ in lacking}
        kept = [sample for sample in samples if id(sample) not in left_out]
        return kept, [f"{category}: {count} samples lack a view and are left out"], []
    problems = [
        f"{sample.split} sample {sample.id} has no {', '.join(missing)}; "
        "leave such samples out by data.incomplete=drop or use them by data.incomplete=keep"
        for sample, missing in lacking
    ]
    return samples, [], problems


def defects_learned(category: str, samples: Iterable[Sample]) -> list[str]:
    """Return the notes on training data of one category that is labelled defective: views, and samples of
    which no view is."""
    training = [sample for sample in samples if sample.split == "train"]
    notes = []
    if count := sum(view.label == 1 for sample in training for view in sample.views):
        notes.append(f"{category}: {count} training views are labelled defective and are used")
    if count := defective_without_view(training):
        notes.append(
            f"{category}: {count} training samples are labelled defective, none of their views is, "
            "and are used"
        )
    return notes


def defective_without_view(samples: Iterable[Sample]) -> int:
    """Return how many samples are labelled defective of which no view is."""
    return sum(one.label == 1 and all(view.label != 1 for view in one.views) for one in samples)


def repeated_images(samples: Iterable[Sample]) -> list[str]:
    """Return the images that are listed more than once, within a split or across splits."""
    counts = Counter(view.image for sample in samples for view in sample.views)
    return sorted(image for image, count in counts.items() if count > 1)
