"""Two scored runs of the same samples on one page that needs no other file: mvead compare A B --html FILE.

Verdicts and metrics with their paired differences; then the samples on which the runs disagree, with the heat of both.
It reads the two scores folders, and the pictures of their reports.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvead_jax.comparison.agreement_text import difference_cells
from mvead_jax.evaluation.metrics import LEVELS, TITLES
from mvead_jax.evaluation.score_files import read_maps
from mvead_jax.report.findings import FoundSample, by_category, maps_decide, read_findings
from mvead_jax.report.heat import heat_scale
from mvead_jax.report.kept_pictures import KeptPictures
from mvead_jax.report.outcomes import FAIL, Cut, called, cut_of, failing_patches
from mvead_jax.report.overlays import overlay
from mvead_jax.report.summary import verdict
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_text
from mvead_jax.runtime.templates import rendered

MOST = 40  # samples whose pictures the page holds: the first of its order
_SIDE, _QUALITY = 260, 80  # of a picture: pixels of its longer side, of WebP
_LEVELS = {"sample": "Sample", "image": "View", "pixel": "Pixel"}
_BASES = {
    "held_out": "set on held-out parts",
    "user": "of the user",
    "test_labels": "best F1 on these labels",
}


@dataclass(frozen=True)
class Pair:
    """A sample as both runs found it. verdicts: of A and of B: fail, pass, undecided, or empty."""

    a: FoundSample
    b: FoundSample
    verdicts: tuple[str, str]
    gap: float  # between the distances from the two thresholds, each in deviations of its category's scores

    @property
    def disagree(self) -> bool:
        return self.verdicts[0] != self.verdicts[1]

    @property
    def right(self) -> tuple[bool | None, bool | None]:
        """Whether each verdict is that of the label; None where one of both is not known."""
        truth = {1: FAIL, 0: "pass"}.get(self.a.label)
        return tuple(own == truth if truth and own in (FAIL, "pass") else None for own in self.verdicts)


class Side:
    """One of the two runs."""

    def __init__(self, folder: Path):
        """
        Raises:
          UserError: not a finished scores folder.
        """
        self.folder, self.samples = folder, read_findings(folder)
        metrics = read_json(folder / "metrics.json", "the scores of a finished mvead score")
        levels, self.words = metrics["categories"], metrics["protocol"]
        self.categories = by_category(self.samples)
        self.cuts = {
            name: cut_of(own, levels.get(name, {}).get("decision")) for name, own in self.categories.items()
        }
        self.pictures = KeptPictures(folder, self.samples)
        self._maps: dict[str, Any] = {}

    @cached_property
    def by_name(self) -> dict[tuple[str, str], FoundSample]:
        return {(one.category, one.id): one for one in self.samples}

    def distance(self, sample: FoundSample) -> float:
        """Return how far a score lies above the threshold, or above the mean where there is none."""
        cut = self.cuts[sample.category]
        own = self.categories[sample.category]
        middle = np.mean([one.score for one in own]) if cut.threshold is None else cut.threshold
        return float((sample.score - middle) / cut.spread)

    def heat(self, sample: FoundSample, view: str, picture: Image.Image) -> str:
        """Return the picture under the heat of the view's scores, as the address of an image."""
        if sample.category not in self._maps:
            own = self.categories[sample.category]
            maps = read_maps(self.folder, sample.category, sum(len(one.views) for one in own)).astype(
                np.float32
            )
            fails = failing_patches(maps, self.cuts[sample.category]) if maps_decide(own, maps) else None
            self._maps[sample.category] = maps, fails, heat_scale(maps)
        maps, fails, scale = self._maps[sample.category]
        place = next(one.place for one in sample.views if one.name == view)
        pixels = overlay(picture, maps[place], scale, None if fails is None else fails[place])
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "WEBP", quality=_QUALITY, method=2)
        return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def write_two_runs(path: Path, a: Path, b: Path, found: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
      a, b: scores folders. found: what `comparison.two_runs.compare` says of them.

    Raises:
      UserError: a file of the folders that can't be read, neither has a report, or the disk refuses.
    """
    sides = Side(a), Side(b)
    source = next((at for at, side in enumerate(sides) if side.pictures.there), None)
    if source is None:
        raise UserError(
            f"--html: neither {a} nor {b} has a report to take pictures from; run mvead score --from-maps"
        )
    pairs = ordered(*sides)
    shown = [_card(one, sides, source) for one in pairs[:MOST]]
    css = package_files("mvead_jax.report").joinpath("static/report.css").read_text(encoding="utf-8")
    text = rendered(
        "mvead_jax.report",
        "two_runs.html.jinja",
        css=css,
        names=(found["a"], found["b"]),
        sides=sides,
        verdicts=[verdict(side.samples, side.cuts) for side in sides],
        headline=headline(pairs),
        thresholds=[{name: _threshold(side.cuts[name]) for name in side.cuts} for side in sides],
        metrics={name: _rows(levels) for name, levels in _mean_first(found["metrics"]).items()},
        settings=found["settings"],
        cards=shown,
        others=[one for one in pairs[MOST:] if one.disagree],
        total=len(pairs),
    )
    write_text(path, text)


def ordered(a: Side, b: Side) -> list[Pair]:
    """Return the samples of both runs: those on which they disagree first, then those on which both are wrong; each
    by how far apart the two runs have them."""
    pairs = []
    for name, one in a.by_name.items():
        if (other := b.by_name.get(name)) is None:
            continue
        verdicts = called(one, a.cuts[one.category]), called(other, b.cuts[one.category])
        pairs.append(Pair(one, other, verdicts, abs(a.distance(one) - b.distance(other))))
    return sorted(pairs, key=lambda one: (not one.disagree, one.right != (False, False), -one.gap))


def headline(pairs: Sequence[Pair]) -> str:
    """Return on how many samples the runs disagree, and which of them is right there."""
    apart = [one for one in pairs if one.disagree]
    words = f"A and B disagree on {len(apart)} of {len(pairs)} parts"
    right = Counter(one.right for one in apart)
    if told := [
        f"{who} is right on {count}"
        for who, count in (("A", right[True, False]), ("B", right[False, True]))
        if count
    ]:
        words += f": {', '.join(told)}"
    both = sum(one.right == (False, False) for one in pairs)
    return words + (f". Both are wrong on {both}." if both else ".")


def _card(pair: Pair, sides: tuple[Side, Side], source: int) -> dict[str, Any]:
    """Return what the page shows of a sample. source: the run whose report gives the pictures."""
    found = pair.a, pair.b
    kept = sides[source].pictures.read(found[source])
    scores = [{view.name: view.score for view in one.views} for one in found]
    views = []
    for name, (picture, outline) in kept.items():
        picture.thumbnail((_SIDE, _SIDE))
        heat = [
            side.heat(one, name, picture) if name in own else ""
            for side, one, own in zip(sides, found, scores, strict=True)
        ]
        told = [own.get(name) for own in scores]
        worst = [one.worst_view == name for one in found]
        views.append({"name": name, "outline": outline, "runs": [*zip(heat, told, worst, strict=True)]})
    return {"pair": pair, "views": views}


def _threshold(cut: Cut) -> str:
    return "no threshold" if cut.threshold is None else f"{cut.threshold:.4g}, {_BASES[cut.basis]}"


def _rows(levels: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each metric: level and name, A, B, B - A, its interval, p."""
    return [
        (f"{_LEVELS[level]} {TITLES[name]}", *difference_cells(levels[level][name]))
        for level, names in LEVELS.items()
        if level in levels
        for name in names
        if name in levels[level]
    ]


def _mean_first(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the categories, the mean before them; without it where there is one category."""
    own = {name: levels for name, levels in metrics.items() if name != "mean"}
    return own if len(own) == 1 else {"mean": metrics["mean"], **own}
