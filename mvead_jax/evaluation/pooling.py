"""From the views of a sample to the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Shaped

from mvead_jax.evaluation.score_files import ImageLine


def sample_numbers(lines: Sequence[ImageLine]) -> Int[np.ndarray, " n"]:
    """Whose each line is: samples are counted from 0 in the order in which they come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(line.sample, len(numbers)) for line in lines])


def listed_labels(lines: Sequence[ImageLine]) -> Int[np.ndarray, " n"]:
    """1, 0, or -1 where it is unknown."""
    return np.array([-1 if line.label is None else line.label for line in lines])


def labels_of_parts(
    lines: Sequence[ImageLine], of_parts: Mapping[tuple[str, str], int | None]
) -> Int[np.ndarray, " S"]:
    """1, 0, or -1 where it is unknown.

    Args:
      of_parts: label by (category, sample).
    """
    found = [of_parts[key] for key in dict.fromkeys((line.category, line.sample) for line in lines)]
    return np.array([-1 if label is None else label for label in found])


def labels_of_samples(labels: Int[np.ndarray, " n"], sample: Int[np.ndarray, " n"]) -> Int[np.ndarray, " S"]:
    """1 if any view is, else -1 (unknown) if that of any view is, else 0.

    For labels by mask, where a view without one is unknown although its list says that it shows a defect.
    """
    unknown = largest_of_views((labels == -1).astype(int), sample)
    return np.where(largest_of_views(labels, sample) == 1, 1, -unknown)


def largest_of_views(values: Shaped[np.ndarray, " n"], sample: Int[np.ndarray, " n"]) -> np.ndarray:
    """[S], of the type of `values`."""
    order = np.argsort(sample, kind="stable")
    starts = np.flatnonzero(np.diff(sample[order], prepend=-1))
    return np.maximum.reduceat(values[order], starts)
