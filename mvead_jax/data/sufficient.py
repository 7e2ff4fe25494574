"""Whether a data set has enough to learn from, and what its test set can tell: for `mvead check` and for training."""

from __future__ import annotations

from collections.abc import Sequence

from mvead_jax.data.records import Sample

FEWEST = 5  # training samples of a category, below which hardly anything is learned
_NAMED = 3  # categories that one line names


def too_few(samples: Sequence[Sample]) -> list[str]:
    """Return the categories with too few training samples, a line each."""
    found = []
    for category in sorted({sample.category for sample in samples}):
        count = sum(sample.category == category and sample.split == "train" for sample in samples)
        if 0 < count < FEWEST:  # without any, the reader has said so
            words = (
                "1 training sample, which does not tell how good parts differ"
                if count == 1
                else f"{count} training samples"
            )
            found.append(f"{category}: {words}; at least {FEWEST} are needed, thirty or more are better")
    return found


def empty_metrics(samples: Sequence[Sample]) -> list[str]:
    """Return which metrics of the test set will be empty and why, a line for each cause with its categories."""
    categories: dict[str, list[str]] = {}
    for category in sorted({sample.category for sample in samples}):
        test = [one for one in samples if one.category == category and one.split == "test"]
        if cause := _cause(test):
            categories.setdefault(cause, []).append(category)
    return [f"{_listed(names)}: {cause}" for cause, names in categories.items()]


def _cause(test: Sequence[Sample]) -> str:
    """Return what the test samples of a category lack for which metrics, or nothing."""
    labels = {sample.label for sample in test}
    if not test:
        return "no test samples: there will be no metrics; new images are scored by `mvead score --input DIR`"
    if 1 not in labels:
        return (
            "no defective test samples: AUROC, AP, F1-max and AUPRO of samples, images and pixels will be empty; "
            "only false alarms can be counted"
        )
    if 0 not in labels:
        return "no good test samples: AUROC, AP and F1-max of samples will be empty or say nothing"
    if not any(view.mask for sample in test for view in sample.views):
        return "no masks of defects in the test set: the metrics of pixels will be empty"
    return ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
