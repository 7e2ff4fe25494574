"""The files of a scores folder, written and read back.

samples.csv             category,sample,label,score,worst_view (and of a run that decides
                        p_value,decision,reason)
images.csv              category,sample,view,image_path,label,score (and of a run that decides p_value)
maps/<category>.npz     "maps": float16 [n,h,w], patch scores in the order of images.csv
regions.csv             category,sample,view,area,x,y,width,height,largest,mean,found; in pixels of the masks
                        as the protocol compares them; x to the right, y down, from 0
bootstrap.npz           "<level>_<metric>": float32 [C,B], resampled metrics of the run's own protocol, with
                        its "evaluation_digest" and the "categories" [C]
"""

from __future__ import annotations

import csv
import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from mvead_jax.decision.decide import Decision
from mvead_jax.evaluation.defects import Region
from mvead_jax.evaluation.metrics import LEVELS
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.evaluation.sealed_metrics import check_files
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import whole, write_text

log = logging.getLogger(__name__)

_LABELS = {"": None, "0": 0, "1": 1}
_SAMPLES = ("category", "sample", "label", "score", "worst_view")
_IMAGES = ("category", "sample", "view", "image_path", "label", "score")
_DECISIONS = ("p_value", "decision", "reason")
_REGIONS = (
    "category",
    "sample",
    "view",
    *("area", "x", "y", "width", "height"),
    *("largest", "mean", "found"),
)
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class ImageLine:
    """A line of images.csv. label: 1, 0, or None where it is unknown. score: the float32 that was written.
    p_value: of the view alone, in a run that decides."""

    category: str
    sample: str
    view: str
    image: str
    label: int | None
    score: np.float32
    p_value: float | None = None


@dataclass(frozen=True)
class SampleLine:
    """A line of samples.csv. label: 1, 0, or None where it is unknown. score: the float32 that was written.

    Attributes:
      decision: pass, fail or undecided; None in a run that decides nothing.
      p_value: None where there is none.
    """

    category: str
    sample: str
    label: int | None
    score: np.float32
    worst_view: str
    p_value: float | None
    decision: str | None
    reason: str


class ScoreFiles:
    """Writes samples.csv, images.csv and maps as categories are scored; keeps their lines, not their maps.

    The lists are whole after every category, so that a scores folder is known as one from the first.
    """

    def __init__(self, folder: Path, decides: bool = False):
        """decides: decisions come with the results."""
        self.folder, self._decides = folder, decides
        self._samples: list[list[str]] = []
        self._images: list[list[str]] = []
        self._write_lists()

    def add(
        self, category: str, found: Sequence[ScoredSample], decisions: Sequence[Decision] | None = None
    ) -> None:
        """The results of one category, all of it; decisions: of each sample, if the run decides."""
        maps = np.stack([one.maps[one.views.index(view.name)] for one in found for view in one.sample.views])
        if beyond := int((np.abs(maps) > _LARGEST).sum()):
            log.warning("%s: %d patch scores beyond %g; its maps hold that", category, beyond, _LARGEST)
        halves = np.clip(maps, -_LARGEST, _LARGEST).astype(np.float16)
        with whole(maps_path(self.folder, category)) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=halves)
        for one, made in zip(found, decisions or [None] * len(found), strict=True):
            own = one.sample
            line = [category, own.id, _label(own.label), _number(one.score), one.worst_view]
            self._samples.append(line + ([_p(made.p_value), made.decision, made.reason()] if made else []))
            for view in own.views:
                line = [category, own.id, view.name, view.image, _label(view.label)]
                line.append(_number(one.image_score(view.name)))
                self._images.append(line + ([_p(made.view(view.name).p_value)] if made else []))
        self._write_lists()

    def _write_lists(self) -> None:
        more = _DECISIONS if self._decides else ()
        _write_csv(self.folder / "images.csv", (*_IMAGES, *more[:1]), self._images)
        _write_csv(self.folder / "samples.csv", (*_SAMPLES, *more), self._samples)


def maps_path(folder: Path, category: str) -> Path:
    return folder / "maps" / f"{category}.npz"


def scored_files(categories: Sequence[str]) -> list[str]:
    """Names of the files that `ScoreFiles` writes."""
    return ["images.csv", "samples.csv", *(f"maps/{name}.npz" for name in categories)]


def read_images(folder: Path) -> list[ImageLine]:
    """The lines of images.csv.

    Raises:
      UserError: no such file, or not one of score.py: it lacks columns, a label is no label, a score is not
        finite, or a view stands in it twice.
    """
    path = folder / "images.csv"
    found: dict[tuple[str, str, str], ImageLine] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for line in reader:
                key, score = (line["category"], line["sample"], line["view"]), np.float32(line["score"])
                what = None
                if line["label"] not in _LABELS:
                    what = f"label {line['label']!r}"
                elif not np.isfinite(score):
                    what = f"score {line['score']!r}"
                elif key in found:
                    what = f"{'/'.join(key)} a second time"
                if what:
                    raise UserError(f"{path}: line {reader.line_num}: {what}; score again")
                p_value = float(line["p_value"]) if line.get("p_value") else None
                found[key] = ImageLine(*key, line["image_path"], _LABELS[line["label"]], score, p_value)
        return list(found.values())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run mvead score") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def read_samples(folder: Path) -> list[SampleLine]:
    """The lines of samples.csv.

    Raises:
      UserError: no such file, or not one of score.py.
    """
    path = folder / "samples.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                SampleLine(
                    line["category"],
                    line["sample"],
                    _LABELS[line["label"]],
                    np.float32(line["score"]),
                    line["worst_view"],
                    float(line["p_value"]) if line.get("p_value") else None,
                    line.get("decision"),
                    line.get("reason") or "",
                )
                for line in csv.DictReader(file)
            ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run mvead score") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def read_sample_labels(folder: Path) -> dict[tuple[str, str], int | None]:
    """Label of each (category, sample) of samples.csv. Raises as `read_samples`."""
    return {(line.category, line.sample): line.label for line in read_samples(folder)}


def read_maps(folder: Path, category: str, count: int | None = None) -> Float16[np.ndarray, "n h w"]:
    """The maps of a category.

    Args:
      count: how many images.csv lists; None = any number.

    Raises:
      UserError: no such file, not one of score.py, or another number of maps.
    """
    path = maps_path(folder, category)
    maps = _read_arrays(path).get("maps")
    if maps is None or maps.ndim != 3 or maps.dtype.kind != "f" or not np.isfinite(maps).all():
        raise UserError(f"{path}: not written by score.py; score again")
    if count is not None and len(maps) != count:
        raise UserError(f"{path}: {maps.shape} does not fit the {count} lines of images.csv; score again")
    return maps


def write_regions(path: Path, regions: Sequence[tuple[ImageLine, Region]]) -> None:
    """regions.csv; each region with the line of its image."""
    lines = [
        [
            *(line.category, line.sample, line.view, one.area, *one.box),
            *map(_number, (one.largest, one.mean, one.found)),
        ]
        for line, one in regions
    ]
    _write_csv(path, _REGIONS, lines)


def write_replicates(
    folder: Path, metrics: Mapping[str, Any], replicates: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """bootstrap.npz.

    Args:
      metrics: the content of the metrics.json that it goes with.
      replicates: of each of its categories, by "<level>_<metric>"; none = no intervals.
    """
    names = replicates[0] if replicates else ()
    arrays = {name: np.stack([own[name] for own in replicates]).astype("f4") for name in names}
    with whole(folder / "bootstrap.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **_belongs_to(metrics))


def read_replicates(folder: Path, metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """ "<level>_<metric>" [C,B] of bootstrap.npz; none where there is no such file, or no interval in it.

    Args:
      metrics: the content of the folder's metrics.json.

    Raises:
      UserError: not one of score.py, or not that of these metrics.
    """
    path = folder / "bootstrap.npz"
    if not path.exists():
        return {}
    check_files(folder, metrics, [path.name])
    arrays = _read_arrays(path)
    for key, value in _belongs_to(metrics).items():
        if not np.array_equal(arrays.pop(key, None), value):
            raise UserError(f"{path}: not of the {key} of metrics.json beside it; score again")
    expected = {f"{level}_{metric}" for level, names in LEVELS.items() for metric in names}
    shapes = {own.shape for own in arrays.values()}
    fits = len(shapes) == 1 and next(iter(shapes))[:-1] == (len(metrics["categories"]),)
    if arrays and not (arrays.keys() == expected and fits):
        raise UserError(f"{path}: not written by score.py; score again")
    return arrays


def _belongs_to(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        "evaluation_digest": np.array(str(metrics["protocol"].get("evaluation_digest"))),
        "categories": np.array(list(metrics["categories"]), str),
    }


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run mvead score") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def _write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    write_text(path, text.getvalue())


def _label(label: int | None) -> str:
    return "" if label is None else str(label)


def _number(value: float) -> str:
    """Digits enough to read the same float32 back."""
    return f"{value:.9g}"


def _p(value: float | None) -> str:
    """All digits: it is compared with the target."""
    return "" if value is None else repr(value)
