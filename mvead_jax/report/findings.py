"""What a scores folder says about each sample, for people to read: lines of samples.csv and images.csv.

Columns of a calibrated run (p_value, decision, reason) are read where they are.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvead_jax.data.records import defect_code
from mvead_jax.errors import UserError


@dataclass(frozen=True)
class FoundView:
    """A line of images.csv. place: its number among those of the category, as in its maps."""

    name: str
    image: str
    label: int | None
    score: float
    p_value: float | None
    place: int


@dataclass(frozen=True)
class FoundSample:
    """A line of samples.csv with its views.

    Attributes:
      number: among the lines of samples.csv; by it the report names its files.
      decision, reason: of a calibrated run, else empty.
    """

    number: int
    category: str
    id: str
    label: int | None
    score: float
    worst_view: str
    views: tuple[FoundView, ...]
    p_value: float | None = None
    decision: str = ""
    reason: str = ""

    @property
    def defect(self) -> str:
        """The kind of defect that its name tells: HS of "cap_0001_NG_HS", scratch of "scratch/0001"."""
        return defect_code(self.id) or ""


def read_findings(folder: Path) -> list[FoundSample]:
    """All samples of a scores folder, in the order of samples.csv.

    Raises:
      UserError: one of the files is missing, or the two do not fit.
    """
    views: dict[tuple[str, str], list[FoundView]] = {}
    counts: dict[str, int] = {}
    path = folder / "images.csv"
    try:
        for line in _lines(path):
            place = counts.get(line["category"], 0)
            counts[line["category"]] = place + 1
            view = FoundView(
                *(line["view"], line["image_path"], _label(line["label"])),
                *(float(line["score"]), _number(line.get("p_value")), place),
            )
            views.setdefault((line["category"], line["sample"]), []).append(view)
        path = folder / "samples.csv"
        return [
            FoundSample(
                *(number, line["category"], line["sample"], _label(line["label"]), float(line["score"])),
                *(line["worst_view"], tuple(views[line["category"], line["sample"]])),
                _number(line.get("p_value")),
                line.get("decision") or "",
                line.get("reason") or "",
            )
            for number, line in enumerate(_lines(path))
        ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run scripts/score.py") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def by_category(samples: Sequence[FoundSample]) -> dict[str, list[FoundSample]]:
    """In the order of their first sample."""
    found: dict[str, list[FoundSample]] = {}
    for one in samples:
        found.setdefault(one.category, []).append(one)
    return found


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _label(text: str) -> int | None:
    return None if text == "" else int(text)


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
