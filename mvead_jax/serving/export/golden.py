"""Samples that go with an artefact: their images and what they scored when it was made.

golden/<category>/<number>/<view>.<ext>   the images, byte for byte
golden/expected.json                      each sample's images and what Inspector said
golden/maps.safetensors                   "<number of the line>": its maps [V,h,w]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load_file

from mvead_jax.data.image_files import ImageFolder
from mvead_jax.data.records import DatasetIndex, Sample, spread_evenly
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json, write_tensors
from mvead_jax.serving.export.function import load_exported
from mvead_jax.serving.export.onnx_model import ONNX_TOLERANCE, load_onnx
from mvead_jax.serving.inspection import Inspection
from mvead_jax.serving.inspector import Inspector

FOLDER = "golden"
TOLERANCE = 1e-5  # of the largest score of a sample


def choose(index: DatasetIndex, category: str, count: int) -> list[Sample]:
    """Samples of a category that stand for all: of the test split, or where it has none of those that were
    learned; held-out ones lie among the scores of the decision."""
    for split in ("test", "train"):
        part = index.select(category=category, split=split)
        if len(part):
            return [part.samples[at] for at in spread_evenly(len(part), count)]
    raise UserError(f"{index.root}: no sample of {category} to keep as a golden one")


def write_golden(
    artefact: Path, root: ImageFolder, samples: Mapping[str, list[Sample]], inspector: Inspector
) -> None:
    """Copies the images of some samples of each category and writes what the inspector says of them.

    The last sample of a category that has more than one view is there twice, the second time without one.
    """
    lines, maps = [], {}
    for category, chosen in samples.items():
        for number, sample in enumerate(chosen):
            pictures = {}
            for view in sample.views:
                suffix = PurePosixPath(view.image).suffix.lower()
                place = f"{FOLDER}/{category}/{number}/{view.name}{suffix}"
                (artefact / place).parent.mkdir(parents=True, exist_ok=True)
                with (root / view.image).open("rb") as file:
                    (artefact / place).write_bytes(file.read())
                pictures[view.name] = place
            given = [pictures]
            if number == len(chosen) - 1 and len(pictures) > 1:
                given.append(dict(list(pictures.items())[:-1]))
            for one in given:
                found = _inspect(inspector, artefact, category, one)
                maps[str(len(lines))] = found.maps
                line = {"category": category, "sample": sample.id, "pictures": one}
                lines.append({**line, "expected": found.as_json()})
    write_json(artefact / FOLDER / "expected.json", lines)
    write_tensors(artefact / FOLDER / "maps.safetensors", maps)


def check_golden(artefact: Path, inspector: Inspector) -> tuple[list[str], int, float]:
    """Scores the golden samples again, by the inspector and by the exported functions.

    Returns:
      What differs, a line each; how many scorings were compared; and the largest difference, as a share of
      the largest score of its sample.
    """
    lines = read_json(artefact / FOLDER / "expected.json", "the golden samples of an artefact")
    expected = load_file(artefact / FOLDER / "maps.safetensors")
    problems, largest = [], 0.0
    exported, models = {}, {}
    for number, line in enumerate(lines):
        category, name = line["category"], f"golden sample {number} ({line['sample']})"
        found = _inspect(inspector, artefact, category, line["pictures"])
        if category not in exported:
            exported[category] = load_exported(artefact, category)
        pictures = {view: artefact / path for view, path in line["pictures"].items()}
        images, present, _ = inspector.preprocess(pictures, category)
        own, wanted = exported[category](images, present), expected[str(number)]
        functions = [("the exported function", own, TOLERANCE)]
        if category not in models:
            models[category] = load_onnx(artefact, category)
        if models[category] is not None:
            functions.append(("the ONNX model", models[category](images, present), ONNX_TOLERANCE))
        compared = [("maps", found.maps, wanted, TOLERANCE)]
        for what, said, tolerance in functions:
            compared.append((f"maps of {what}", said["maps"], wanted, tolerance))
            if "image_scores" in said:
                scores = said["image_scores"], found.image_scores
                compared.append((f"image scores of {what}", *scores, tolerance))
        for what, values, wanted, tolerance in compared:
            difference = difference_of(values, wanted)
            largest = max(largest, difference)
            if not difference <= tolerance:
                allowed = f"of its largest score, {tolerance:g} allowed"
                problems.append(f"{name}: {what} differ by {difference:.1e} {allowed}")
        said, again = ({**own, "text": ""} for own in (line["expected"], found.as_json()))  # rounded figures
        problems += [f"{name}: {one}" for one in _changed(said, again)]
    return problems, 2 * len(lines), largest


def difference_of(found: Float32[np.ndarray, "V h w"], expected: Float32[np.ndarray, "V h w"]) -> float:
    """The largest difference by the largest expected score; infinite if other views are missing."""
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return float("inf")
    there = ~np.isnan(expected)
    scale = np.abs(expected[there]).max()
    return float(np.abs(found[there] - expected[there]).max() / scale) if scale else float(found[there].any())


def _changed(expected: Any, found: Any, place: str = "") -> list[str]:
    """Where two JSON values differ: numbers by more than the tolerance, other values at all. What only a
    later program says is no difference."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [one for key in expected for one in _changed(expected[key], found.get(key), f"{place}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [one for at, pair in pairs for one in _changed(*pair, f"{place}[{at}]")]
    if isinstance(expected, float) and isinstance(found, float):
        same = abs(found - expected) <= TOLERANCE * max(abs(expected), abs(found))
    else:
        same = found == expected
    return [] if same else [f"{place.lstrip('.')} is {found!r}, expected {expected!r}"]


def _inspect(inspector: Inspector, artefact: Path, category: str, pictures: Mapping[str, str]) -> Inspection:
    return inspector.inspect({view: artefact / path for view, path in pictures.items()}, category)
