"""Samples scored in one process, or a few at a time in several: the same scores and maps, bit by bit."""

import csv
import shutil

import numpy as np
import pytest
from fake_realiad import write_realiad
from laboratory import Lab

CHANGES = {"backbone__name": "efficientnet-lite0", "backbone__weights": "auto"}
SIZES = (1, 7, 12)  # samples of the runs; chunks of features hold up to 16


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("batches")) as lab:
        lab.done("train", "model", changes=CHANGES)
        yield lab


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Those of each of the samples of `SIZES`."""
    root = write_realiad(
        tmp_path_factory.mktemp("pictures"),
        categories=("cap",),
        train=0,
        normal=sum(SIZES) // 2,
        defective=sum(SIZES) // 2,
        views=2,
        size=40,
    )
    found = {}
    for path in sorted(root.rglob("*.jpg")):
        found.setdefault(path.name.split("_C")[0], []).append(path)
    return list(found.values())


def score(lab, name, samples):
    """Scores samples in a process of its own; returns the lines of samples.csv and of images.csv, and the
    bytes of the maps by image."""
    folder, output = lab.folder / name, lab.folder / f"{name}-scores"
    folder.mkdir()
    for path in (view for sample in samples for view in sample):
        shutil.copy(path, folder)
    # Features of an earlier run are not to be found.
    cache = f"--config.features.cache={lab.folder / name}-cache"
    lab.done("score", "model", options=["--input", str(folder), "--output", str(output), cache])
    lists = []
    for file in ("samples.csv", "images.csv"):
        with (output / file).open(newline="") as opened:
            lists.append([tuple(line) for line in csv.reader(opened)][1:])
    with np.load(output / "maps/cap.npz") as file:
        maps = file["maps"]
    named = {line[:3]: own.tobytes() for line, own in zip(lists[1], maps, strict=True)}
    return [*map(set, lists), named]


def test_scores_and_maps_do_not_depend_on_how_many_samples_a_process_scores(lab, pictures):
    at_once = score(lab, "all", pictures)
    assert [len(part) for part in at_once] == [sum(SIZES), 2 * sum(SIZES), 2 * sum(SIZES)]
    start = 0
    for size in SIZES:
        some = score(lab, f"of-{size}", pictures[start : start + size])
        start += size
        for own, whole in zip(some[:2], at_once[:2], strict=True):
            assert own <= whole
        assert some[2].items() <= at_once[2].items()
