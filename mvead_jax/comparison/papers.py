"""What the papers print about Real-IAD, in percent, read from published/*.csv: theirs, never measured here.

mvead_realiad.csv    tables 1 (sample) and 2 (image) of MVEAD (seed 001) with the systems it compares
mvad_realiad.csv     the tables of MVAD; where both papers print a figure, they print the same
mvead_ablation.csv   table 3 of MVEAD: image AUROC
mvead_cost.csv       figure 5 of MVEAD and its text: image AUROC and hours of training
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

SYSTEMS = ("MVEAD", "PatchCore", "MVAD", "SimpleNet", "UniAD")
SETTINGS = {"single": "single-class", "multi": "multi-class"}  # ours -> the papers'
AVERAGE = "average"  # the category under which the mean over 30 stands as printed
DEFAULT_CENTERS = 20  # K of the paper wherever it names none


class Place(NamedTuple):
    """Where a figure of the papers' tables stands."""

    level: str
    setting: str
    category: str
    system: str
    metric: str


@dataclass(frozen=True)
class AblationRow:
    """A row of table 3.

    Attributes:
      spec: the same as an argument of configs/ablation.py.
      image_auroc: in percent.
    """

    fusion: str
    pretraining: str
    bank: str
    image_auroc: float

    @property
    def spec(self) -> str:
        return f"{self.fusion},{self.pretraining},{self.bank}"


@dataclass(frozen=True)
class Cost:
    """A point of figure 5 whose value the paper's text gives. training_hours: on an RTX A5000, or None."""

    backbone: str
    centers: int
    image_auroc: float
    training_hours: float | None


def realiad() -> dict[Place, float]:
    """Every figure on samples and images: {(level, setting, category, system, metric): percent}."""
    return {
        Place(line["level"], line["setting"], line["category"], line["method"], line["metric"]): float(
            line["percent"]
        )
        for name in ("mvad_realiad.csv", "mvead_realiad.csv")
        for line in _lines(name)
        if line["level"] != "pixel"
    }


def ablation() -> tuple[AblationRow, ...]:
    """The ten rows of table 3, in its order."""
    banks = {"no": "shared", "yes": "per_view"}
    return tuple(
        AblationRow(
            line["fusion"],
            line["pretraining"],
            banks[line["multi_view_bank"]],
            float(line["image_auroc_percent"]),
        )
        for line in _lines("mvead_ablation.csv")
    )


def cost() -> tuple[Cost, ...]:
    """What is printed of figure 5, in the order of the file."""
    found = []
    for line in _lines("mvead_cost.csv"):
        backbone, _, centers = line["variant"].partition(" K=")
        hours = line["training_hours_a5000"]
        found.append(
            Cost(
                backbone,
                int(centers or DEFAULT_CENTERS),
                float(line["image_auroc_percent"]),
                float(hours) if hours else None,
            )
        )
    return tuple(found)


def _lines(name: str) -> list[dict[str, str]]:
    text = files("mvead_jax.comparison").joinpath("published", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
