"""The files of a scores folder, written and read back.

samples.csv             category,sample,label,score,worst_view
images.csv              category,sample,view,image_path,label,score
maps/<category>.npz     "maps": float16 [n,h,w], patch scores in the order of images.csv
bootstrap.npz           "<level>_<metric>": float32 [C,B], resampled metrics of the run's own protocol;
                        categories in the order of metrics.json
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

from mvead_jax.errors import UserError
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.files import whole, write_text

log = logging.getLogger(__name__)

_SAMPLES = ("category", "sample", "label", "score", "worst_view")
_IMAGES = ("category", "sample", "view", "image_path", "label", "score")
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class ImageLine:
    """A line of images.csv. label: 1, 0, or None where it is unknown. score: the float32 that was written."""

    category: str
    sample: str
    view: str
    image: str
    label: int | None
    score: np.float32


class ScoreFiles:
    """Writes samples.csv, images.csv and maps as categories are scored; keeps their lines, not their maps.

    The lists are whole after every category, so that a scores folder is known as one from the first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._samples: list[list[str]] = []
        self._images: list[list[str]] = []
        self._write_lists()

    def add(self, category: str, found: Sequence[ScoredSample]) -> None:
        """The results of one category, all of it."""
        maps = np.stack([one.maps[one.views.index(view.name)] for one in found for view in one.sample.views])
        if beyond := int((np.abs(maps) > _LARGEST).sum()):
            log.warning("%s: %d patch scores beyond %g; its maps hold that", category, beyond, _LARGEST)
        halves = np.clip(maps, -_LARGEST, _LARGEST).astype(np.float16)
        with whole(maps_path(self.folder, category)) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=halves)
        for one in found:
            own = one.sample
            self._samples.append([category, own.id, _label(own.label), _number(one.score), one.worst_view])
            self._images += [
                [
                    *(category, own.id, view.name, view.image),
                    *(_label(view.label), _number(one.image_score(view.name))),
                ]
                for view in own.views
            ]
        self._write_lists()

    def _write_lists(self) -> None:
        _write_csv(self.folder / "images.csv", _IMAGES, self._images)
        _write_csv(self.folder / "samples.csv", _SAMPLES, self._samples)


def maps_path(folder: Path, category: str) -> Path:
    return folder / "maps" / f"{category}.npz"


def read_images(folder: Path) -> list[ImageLine]:
    """The lines of images.csv.

    Raises:
      UserError: no such file, or not one of score.py.
    """
    path = folder / "images.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                ImageLine(
                    *(line["category"], line["sample"], line["view"], line["image_path"]),
                    int(line["label"]) if line["label"] else None,
                    np.float32(line["score"]),
                )
                for line in csv.DictReader(file)
            ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run scripts/score.py") from None
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def read_maps(folder: Path, category: str, count: int) -> Float16[np.ndarray, "n h w"]:
    """The maps of a category.

    Args:
      count: how many images.csv lists.

    Raises:
      UserError: no such file, not one of score.py, or another number of maps.
    """
    path = maps_path(folder, category)
    maps = _read_arrays(path)["maps"]
    if maps.ndim != 3 or len(maps) != count or not np.isfinite(maps).all():
        raise UserError(f"{path}: {maps.shape} does not fit the {count} lines of images.csv; score again")
    return maps


def write_replicates(folder: Path, replicates: Sequence[Mapping[str, np.ndarray]]) -> None:
    """bootstrap.npz; `replicates`: of each category, by "<level>_<metric>"."""
    with whole(folder / "bootstrap.npz") as temporary, temporary.open("wb") as file:
        names = replicates[0] if replicates else ()
        np.savez(file, **{name: np.stack([own[name] for own in replicates]).astype("f4") for name in names})


def read_replicates(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of bootstrap.npz, none where there is no such file."""
    path = folder / "bootstrap.npz"
    return _read_arrays(path) if path.exists() else {}


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run scripts/score.py") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error


def _write_csv(path: Path, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    write_text(path, text.getvalue())


def _label(label: int | None) -> str:
    return "" if label is None else str(label)


def _number(value: np.float32) -> str:
    """Digits enough to read the same float32 back."""
    return f"{value:.9g}"
