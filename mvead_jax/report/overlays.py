"""Heat over every scored image in its own size, as PNG files: score.py --overlays.

    overlays/<category>/<n>_<view>.png     n: the sample's line in samples.csv, from 0
    overlays/overlays.csv                  file,category,sample,view,score

Colours are those of the report: heat by the scale of the category, white around marked defects, red around the
patches that fail by themselves, grey where nothing counts.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from mvead_jax.data.ignored import Ignored
from mvead_jax.data.masks import MASK_THRESHOLD, open_mask
from mvead_jax.data.mirroring import flipped_image, open_view
from mvead_jax.data.records import DatasetIndex, View
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.evaluation.score_files import read_maps
from mvead_jax.report.findings import FoundSample, FoundView, by_category, maps_decide, read_findings
from mvead_jax.report.heat import category_scale, heat_table
from mvead_jax.report.outcomes import cut_of, failing_patches
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import make_folder, read_json, whole, write_text
from mvead_jax.runtime.progress import progress

FOLDER, LIST = "overlays", "overlays.csv"
_MOST_OPAQUE = 0.75
_MARKED, _FAILING, _GREY = (255, 255, 255), (255, 90, 79), (107, 115, 124)
_THREADS = 4


def overlay(
    image: Image.Image,
    scores: Float32[np.ndarray, "h w"],
    scale: tuple[float, float],
    fails: Bool[np.ndarray, "h w"] | None = None,
    marked: Bool[np.ndarray, "H W"] | None = None,
    ignored: Bool[np.ndarray, "H W"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image with the heat of its patch scores and what is outlined.

    Args:
      scale: patch scores where heat begins and where it is full.
      fails: patches that fail by themselves. marked: pixels of a defect. ignored: pixels that never count.
    """
    low, high = scale
    width, height = image.size
    strength = np.clip((enlarge(scores[None], height, width)[0] - low) / max(high - low, 1e-12), 0, 1)
    colours = heat_table()[np.round(255 * strength).astype(int)]
    opaque = (_MOST_OPAQUE * strength)[..., None]
    pixels = np.asarray(image.convert("RGB")) * (1 - opaque) + colours * opaque
    if ignored is not None:
        pixels[ignored] = 0.22 * pixels[ignored] + 0.78 * np.array(_GREY)
    pixels = np.round(pixels).astype(np.uint8)
    thick = max(1, max(image.size) // 400)
    for where, colour in ((marked, _MARKED), (fails, _FAILING)):
        if where is not None and where.any():
            own = cv2.resize(where.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            inner = cv2.erode(own, np.ones((2 * thick + 1,) * 2, np.uint8), borderType=cv2.BORDER_REPLICATE)
            pixels[(own > 0) & (inner == 0)] = colour
    return pixels


def write_overlays(
    folder: Path, index: DatasetIndex, usual: Path | None = None, ignored: Mapping[str, Ignored] | None = None
) -> Path:
    """Write the overlays of a finished scores folder anew; return their folder.

    Args: as of `report.page.write_report`.

    Raises:
      UserError: a file of the folder, an image or a mask that can't be read; or no room on the disk.
    """
    samples, place = read_findings(folder), folder / FOLDER
    levels = read_json(folder / "metrics.json", "the scores of a finished scripts/score.py")["categories"]
    remove_overlays(folder)
    lines = []
    with progress("overlays", len(samples), "samples") as bar:
        for name, own in by_category(samples).items():
            make_folder(place / name)
            maps = read_maps(folder, name, sum(len(one.views) for one in own)).astype(np.float32)
            cut = cut_of(own, levels.get(name, {}).get("decision"))
            fails = failing_patches(maps, cut) if maps_decide(own, maps) else None
            scale = category_scale(folder, usual, name, maps)[:2]
            stored = {
                (one.id, view.name): view
                for one in index.samples
                if one.category == name
                for view in one.views
            }
            masks = (ignored or {}).get(name, {})

            def write(
                job: tuple[FoundSample, FoundView],
                maps=maps,
                fails=fails,
                scale=scale,
                stored=stored,
                masks=masks,
            ):
                sample, found = job
                view = stored[sample.id, found.name]
                made = overlay(
                    *(open_view(index, view), maps[found.place], scale),
                    None if fails is None else fails[found.place],
                    _marked(index, view),
                    masks.get(found.name),
                )
                with whole(place / sample.category / f"{sample.number}_{found.name}.png") as temporary:
                    Image.fromarray(made).save(temporary, format="PNG", compress_level=3)

            if lacking := next(
                (one.id for one in own for view in one.views if (one.id, view.name) not in stored), ""
            ):
                raise UserError(f"{index.root}: has no sample {lacking} of {name}, which was scored")
            jobs = [(sample, found) for sample in own for found in sample.views]
            with ThreadPoolExecutor(_THREADS) as pool:
                for (sample, found), _ in zip(jobs, pool.map(write, jobs), strict=True):
                    bar.advance(found is sample.views[-1])
            lines += [_line(sample, found) for sample, found in jobs]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "category", "sample", "view", "score"), *lines])
    write_text(place / LIST, text.getvalue())  # last: it says that all are there
    return place


def remove_overlays(folder: Path) -> None:
    """Remove what an earlier scoring left."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _line(sample: FoundSample, found: FoundView) -> Sequence[str]:
    file = f"{sample.category}/{sample.number}_{found.name}.png"
    return file, sample.category, sample.id, found.name, f"{found.score:.9g}"


def _marked(index: DatasetIndex, view: View) -> Bool[np.ndarray, "H W"] | None:
    if view.mask is None:
        return None
    return np.asarray(flipped_image(open_mask(index.root / view.mask), view.mirrored)) > MASK_THRESHOLD
