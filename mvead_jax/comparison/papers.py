"""What the papers print about Real-IAD, in percent, read from published/*.csv: theirs, never measured here.

mvead_realiad.csv    tables 1 (sample) and 2 (image) of MVEAD (seed 001) with the systems it compares
mvad_realiad.csv     the tables of MVAD; where both papers print a figure, they print the same
idif_realiad.csv     the table of IDIF (seed 004), single-class; of systems that MVEAD's tables have too it prints
                     other figures, so that these stand apart, as "UniAD (IDIF)"
averages_realiad.csv the means over 30 categories of papers whose figures of each are not at hand
mvead_ablation.csv   table 3 of MVEAD: image AUROC
mvead_cost.csv       figure 5 of MVEAD and its text: image AUROC and hours of training
methods.csv          which system each of our methods stands beside, and the config that is as its paper has it
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

SYSTEMS = ("MVEAD", "PatchCore", "MVAD", "SimpleNet", "UniAD")  # of MVEAD's tables 1 and 2
SETTINGS = {"single": "single-class", "multi": "multi-class"}  # ours -> the papers'
AVERAGE = "average"  # the category under which the mean over 30 stands as printed
DEFAULT_CENTERS = 20  # K of the paper wherever it names none
# The files of figures by system, later ones first where two have one, and whose tables they are; None: each its own.
_TABLES = {
    "mvad_realiad.csv": "MVAD",
    "mvead_realiad.csv": "MVEAD",
    "idif_realiad.csv": "IDIF",
    "averages_realiad.csv": None,
}


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


@dataclass(frozen=True)
class Published:
    """A method of ours and what the papers have of it.

    Attributes:
      method: its name in mvead_jax/methods/registry.py.
      system: the papers' name of it.
      config: as its paper has it, in configs/: "<name>.py" or "<name>.py:<argument>".
    """

    method: str
    system: str
    config: str


def realiad() -> dict[Place, float]:
    """Every figure on samples and images: {(level, setting, category, system, metric): percent}."""
    return {
        Place(line["level"], line["setting"], line["category"], system, line["metric"]): float(
            line["percent"]
        )
        for system, _, line in _figures()
    }


def all_systems() -> tuple[str, ...]:
    """Return every system of which some paper prints a figure on samples or images, those of MVEAD first."""
    return tuple(dict.fromkeys([*SYSTEMS, *(system for system, *_ in _figures())]))


def papers_of(system: str) -> tuple[str, ...]:
    """Return the papers that print a system's figures, by the name of their own system."""
    return tuple(dict.fromkeys(paper for name, paper, _ in _figures() if name == system))


def methods() -> tuple[Published, ...]:
    """Return our methods that the papers have too, in the order of the file."""
    return tuple(Published(line["method"], line["system"], line["config"]) for line in _lines("methods.csv"))


def beside(method: str) -> str | None:
    """Return the system that a method stands beside; None if no paper has it."""
    return next((one.system for one in methods() if one.method == method), None)


def _figures() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield system, the paper that prints it, and the line, of every figure on samples and images."""
    for name, paper in _TABLES.items():
        for line in _lines(name):
            system = line["method"]
            if line["level"] == "pixel":
                continue
            apart = name == "idif_realiad.csv" and system in SYSTEMS
            yield (f"{system} ({paper})" if apart else system), paper or system, line


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


@cache
def _lines(name: str) -> list[dict[str, str]]:
    """Return the lines of a file of published/; nobody changes them."""
    text = files("mvead_jax.comparison").joinpath("published", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
