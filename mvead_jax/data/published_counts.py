"""How many samples and images public data sets have, from their papers; not counted by us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvead_jax.data.records import Sample

_MVTEC_AD = """
    bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper
"""
_VISA = """
    candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum
"""
_MPDD = "bracket_black bracket_brown bracket_white connector metal_plate tubes"
# Of all categories of a data set, by its name; VisA's are those of the list 1cls.
_PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {
    "MVTec AD": (
        _MVTEC_AD,
        {"train images": 3_629, "test images": 1_725, "test samples OK": 467, "test masks": 1_258},
    ),
    "VisA": (
        _VISA,
        {"train images": 8_659, "test images": 2_162, "test samples OK": 962, "test masks": 1_200},
    ),
    "BTAD": ("01 02 03", {"train images": 1_799, "test images": 741}),
    "MPDD": (_MPDD, {"train images": 888, "test images": 458, "test samples OK": 176}),
}


def other_counts(samples: Sequence[Sample]) -> list[str]:
    """Return the counts that are not those of the public data set whose categories these are: "train images
    3,600, MVTec AD has 3,629". Empty if all agree, or if these are the categories of none."""
    categories = {sample.category for sample in samples}
    for name, (known, expected) in _PUBLISHED.items():
        if categories == set(known.split()):
            return differing(samples, name, expected)
    return []


def differing(samples: Sequence[Sample], name: str, expected: Mapping[str, int]) -> list[str]:
    """Return the counts of samples that are not those expected, in words.

    Args:
      name: of the data set that has the counts. expected: by what is counted, as `counts` names it.
    """
    found = counts(samples)
    return [
        f"{what} {found[what]:,}, {name} has {count:,}"
        for what, count in expected.items()
        if found[what] != count
    ]


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Return how many images, samples and masks each split has."""
    found = {}
    for split in ("train", "test"):
        own = [sample for sample in samples if sample.split == split]
        views = [view for sample in own for view in sample.views]
        found |= {
            f"{split} images": len(views),
            f"{split} samples": len(own),
            f"{split} samples OK": sum(sample.label == 0 for sample in own),
            f"{split} samples NG": sum(sample.label == 1 for sample in own),
            f"{split} masks": sum(view.mask is not None for view in views),
        }
    return found
