"""report/index.html of a scores folder: what was found, on one page that opens from disk.

    index.html              table, curves, the list of samples; all that is needed to filter and order them
    report.css, *.js        as they lie in static/
    samples/<n>.js          maps, outlines and attended patches of a sample, loaded when it is opened
    pictures/<n>/<v>.webp   small copies of its images; of the first samples <v>_full.webp in the original size

n is the sample's line in samples.csv, from 0, and v the number of the view: no name of the data becomes the
name of a file. Reads the files of the scores folder and the data set's images and masks; no model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np

from mvead_jax.data.added import SCHEMA as LABELS
from mvead_jax.data.ignored import Ignored
from mvead_jax.data.records import DatasetIndex, natural_key
from mvead_jax.decision.by_hand import SCHEMA
from mvead_jax.evaluation.score_files import read_maps
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.report.attention import Attended, attended_path, of_sample, read_attended
from mvead_jax.report.charts import charts_of
from mvead_jax.report.findings import FoundSample, by_category, maps_decide, read_findings
from mvead_jax.report.heat import category_scale, halves, heat_colours
from mvead_jax.report.line_table import line_table
from mvead_jax.report.outcomes import Cut, cut_of, outcome, rank
from mvead_jax.report.summary import summary
from mvead_jax.report.thumbnails import outline, read_outline, write_thumbnail
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_text
from mvead_jax.runtime.progress import progress
from mvead_jax.runtime.templates import rendered

MOST_PICTURED = 1000  # samples whose images the page holds: those that it lists first
MOST_FULL = 100  # of them, those whose images it holds in their original size too
_THREADS = 4


def write_report(
    folder: Path,
    index: DatasetIndex,
    geometries: Mapping[str, CategoryGeometry],
    usual: Path | None = None,
    ignored: Mapping[str, Ignored] | None = None,
) -> Path:
    """Writes the report of a finished scores folder anew; index.html comes last.

    Args:
      folder: of score.py, with its metrics.json.
      index: holds the samples that were scored.
      geometries: of the categories that have one.
      usual: scores of the test split, by whose heat scale new images are drawn.
      ignored: masks of each category's views, whose patches never count.

    Returns:
      The path of index.html.

    Raises:
      UserError: a file of the folder, an image or a mask that can't be read.
    """
    samples = read_findings(folder)
    metrics = read_json(folder / "metrics.json", "the scores of a finished mvead score")
    place = folder / "report"
    remove_report(place)
    categories = by_category(samples)
    levels = metrics["categories"]
    cuts = {name: cut_of(own, levels.get(name, {}).get("decision")) for name, own in categories.items()}
    order = sorted(samples, key=lambda one: rank(one, cuts[one.category]))
    pictured, full = ({one.number for one in order[:most]} for most in (MOST_PICTURED, MOST_FULL))
    for part in ("samples", "pictures"):
        (place / part).mkdir(parents=True, exist_ok=True)
    told = []
    with progress("report", len(pictured), "samples") as bar:
        for name, own in categories.items():
            maps = read_maps(folder, name, sum(len(one.views) for one in own))
            page = _Category(name, own, maps, index, read_attended(attended_path(folder, name)))
            with ThreadPoolExecutor(_THREADS) as pool:
                chosen = [one for one in own if one.number in pictured]
                for _ in pool.map(partial(page.write_sample, place=place, full=full), chosen):
                    bar.advance()
            own = page.told(geometries.get(name), cuts[name], category_scale(folder, usual, name, maps))
            told.append(own | {"ignored": page.ignored((ignored or {}).get(name, {}))})
    names = list(categories)
    listed = [
        _line(one, names.index(one.category), told[names.index(one.category)]["views"], cuts[one.category])
        | {"pictured": one.number in pictured}
        for one in order
    ]
    charts = [charts_of(own, cuts[name]) for name, own in categories.items()]
    for own, chart in zip(told, charts, strict=True):
        own["span"] = chart["histogram"]["range"]
    model = metrics["protocol"].get("scores_digest")
    data = {
        "categories": told,
        "samples": listed,
        "colours": heat_colours(),
        "schema": SCHEMA,
        "model": model,
        "labels": LABELS,
        "scored": str(metrics["protocol"].get("scored", "")),
    }
    for source in _static():
        write_text(place / source.name, source.read_text(encoding="utf-8"))
    values = {"data": script_json(data), "categories": told, "charts": charts}
    page = rendered("mvead_jax.report", "index.html.jinja", **values, **summary(metrics, samples, cuts))
    write_text(place / "index.html", page)
    return place / "index.html"


def remove_report(place: Path) -> None:
    """Removes what an earlier report left in its folder, and the folder if nothing else is in it."""
    for name in ("index.html", *(source.name for source in _static())):
        (place / name).unlink(missing_ok=True)
    for name in ("samples", "pictures"):
        shutil.rmtree(place / name, ignore_errors=True)
    with suppress(OSError):
        place.rmdir()


def _static() -> list[Any]:
    return list(package_files("mvead_jax.report").joinpath("static").iterdir())


def script_json(value: Any) -> str:
    """JSON that is inert inside a script element, and is JavaScript too: no <, >, & nor a line separator."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


class _Category:
    """Writes the samples of one category."""

    def __init__(
        self,
        name: str,
        samples: Sequence[FoundSample],
        maps: np.ndarray,
        index: DatasetIndex,
        attended: Attended | None,
    ):
        self.name, self.samples, self.maps, self.attended = name, samples, maps, attended
        self.views = sorted({view.name for one in samples for view in one.views}, key=natural_key)
        self.root, self.bit_depth = index.root, index.bit_depth
        self.stored = {one.id: one for one in index.samples if one.category == name}

    def write_sample(self, sample: FoundSample, place: Path, full: Set[int]) -> None:
        """samples/<n>.js and the images of one sample. full: samples whose images keep their size."""
        if sample.id not in self.stored:
            raise UserError(f"{self.root}: has no sample {sample.id} of {self.name}, which was scored")
        views = {view.name: view for view in self.stored[sample.id].views}
        folder = place / "pictures" / str(sample.number)
        folder.mkdir()
        content: dict[str, Any] = {"views": []}
        for found in sample.views:
            view, number = views[found.name], self.views.index(found.name)
            copy = folder / f"{number}.webp"
            whole = folder / f"{number}_full.webp" if sample.number in full else None
            original, size = write_thumbnail(
                self.root / view.image, copy, self.bit_depth, view.mirrored, whole
            )
            content["views"].append(
                {
                    "view": number,
                    "size": size,
                    "original": original,
                    "full": whole is not None and whole.exists(),
                    "map": halves(self.maps[found.place]),
                    "outline": ""
                    if view.mask is None
                    else read_outline(self.root / view.mask, view.mirrored),
                }
            )
        if (own := of_sample(self.attended, sample.id, self.views)) is not None:
            patches, weights = own
            content["attended"] = {
                "top": patches.shape[-1],
                "patches": patches.ravel().tolist(),
                "weights": halves(weights),
            }
        text = f"report.receive({sample.number},{script_json(content)});\n"
        (place / "samples" / f"{sample.number}.js").write_text(text, encoding="utf-8")

    def ignored(self, masks: Ignored) -> dict[int, str]:
        """Outlines of what is ignored, by the number of the view."""
        return {at: outline(masks[view]) for at, view in enumerate(self.views) if view in masks}

    def told(
        self, geometry: CategoryGeometry | None, cut: Cut, scale: tuple[float, float, str]
    ) -> dict[str, Any]:
        """What the page has to know of the category."""
        scores = [view.score for one in self.samples for view in one.views]
        return {
            "name": self.name,
            "views": self.views,
            "grid": self.maps.shape[1:],
            "heat": scale[:2],
            "heat_of": scale[2],
            "range": [min(scores), max(scores)],
            "threshold": cut.threshold,
            "basis": cut.basis,
            "cut": cut.lowest,
            "held_out": cut.held_out,
            "contour": maps_decide(self.samples, self.maps),
            "attention": self.attended is not None,
            "lines": line_table(geometry, self.views),
        }


def _line(sample: FoundSample, category: int, views: Sequence[str], cut: Cut) -> dict[str, Any]:
    """A sample in the list. Fields that say nothing are left out: there may be thousands of lines."""
    line = {
        "n": sample.number,
        "category": category,
        "id": sample.id,
        "score": float(f"{sample.score:.9g}"),  # enough to be the same float32 as a threshold
        "worst": views.index(sample.worst_view),
        "views": [
            [views.index(view.name), float(f"{view.score:.6g}"), view.label, view.p_value]
            for view in sample.views
        ],
    }
    more = {
        "label": sample.label,
        "defect": sample.defect,
        "outcome": outcome(sample, cut),
        "p": sample.p_value,
        "decision": sample.decision,
        "reason": sample.reason,
    }
    return line | {name: value for name, value in more.items() if value not in (None, "")}
