"""scripts/check_data.py on sound data and on data with everything wrong."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import write_realiad
from own_data import CAMERAS, write_folders, write_picture
from PIL import Image

from mvead_jax.data.check import check_data
from mvead_jax.data.check_text import as_text
from mvead_jax.data.readers import open_data
from mvead_jax.data.tfds_realiad.prepare import prepare

ROOT = Path(__file__).parents[2]
LEFT, TOP, RIGHT = CAMERAS


def script(*arguments):
    command = [sys.executable, "scripts/check_data.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def root(tmp_path):
    return write_folders(tmp_path / "Mein Teil №1")


def test_sound_data_gets_its_table_and_no_problem(root):
    done = script(root)
    assert done.returncode == 0, done.stderr
    assert "no problems" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["Mein", "Teil", "№1", "train", "6", "6", "0", "0", "18", "0"] in rows
    assert ["Mein", "Teil", "№1", "test", "6", "3", "3", "0", "18", "6"] in rows
    assert ["Mein", "Teil", "№1", *RIGHT.split(), "12", "56", "x", "32:", "12"] in rows


def test_everything_wrong_is_listed_at_once(root):
    good, bad = root / "train/good", root / "test/Kratzer ß"
    shutil.copy(good / f"teil 00/{LEFT}.png", root / f"test/good/teil 00/{LEFT}.png")
    damaged = good / f"teil 03/{TOP}.JPG"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    write_picture(good / f"teil 04/{RIGHT}.bmp", (20, 20), np.random.default_rng(9))
    (bad / f"teil 00/{RIGHT}.bmp").unlink()
    Image.new("L", (9, 9), 255).save(root / f"ground_truth/Kratzer ß/teil 01/{LEFT}.png")
    for view in (LEFT, TOP):
        path = root / f"ground_truth/Kratzer ß/teil 02/{view}.png"
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    shutil.rmtree(good / "teil 05")
    shutil.rmtree(good / "teil 02")
    found = check_data(root)
    for start in (
        f"the same image in train and test: test/good/teil 00/{LEFT}.png, train/good/teil 00/{LEFT}.png",
        f"train/good/teil 03/{TOP}.JPG: damaged JPEG",
        f"Mein Teil №1: training images of view {RIGHT} have 2 sizes (56 x 32: 3, 20 x 20: 1)",
        f"Mein Teil №1: test sample Kratzer ß/teil 00 has no {RIGHT}",
        f"ground_truth/Kratzer ß/teil 01/{LEFT}.png: mask of 9 x 9 pixels, its image has 48 x 40",
        "Kratzer ß/teil 02: defective, but all its masks are empty",
        "Mein Teil №1: 4 training samples; at least 5",
    ):
        assert sum(one.startswith(start) for one in found.problems) == 1, start
    assert len(found.problems) == 7
    done = script(root)
    assert done.returncode == 1
    assert "7 problems:" in done.stdout
    assert "Traceback" not in done.stderr


def test_labels_that_contradict_their_masks_are_problems(root, tmp_path):
    index = open_data(root)
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "view", "path", "label", "mask", "split"])
        for sample in index.samples:
            for view in sample.views:
                label = {0: 1, 1: 0}[view.label] if sample.id == "Kratzer ß/teil 00" else view.label
                label = "" if sample.id == "Kratzer ß/teil 01" else label
                writer.writerow([sample.id, view.name, view.image, label, view.mask, sample.split])
    found = check_data(root)
    assert found.source["reader"] == "manifest"
    assert sum("marks a defect, and" in one and "is labelled normal" in one for one in found.problems) == 2
    assert sum("marks a defect, and" in one and "has no label" in one for one in found.problems) == 2
    assert len(found.problems) == 4


def test_copies_within_a_split_and_parts_without_masks_are_only_noted(tmp_path):
    root = write_folders(tmp_path / "x", masks=False)
    shutil.copy(root / f"train/good/teil 00/{LEFT}.png", root / f"train/good/teil 01/{LEFT}.png")
    found = check_data(root)
    assert not found.problems
    assert found.notes[0].startswith("the same image twice in a split: train/good/teil 00")
    assert found.notes[1].startswith("3 defective samples have no mask")
    assert "note: 3 defective samples" in as_text(found)


def test_what_the_script_was_told_is_what_is_checked(root, tmp_path):
    path = root / f"test/good/teil 00/{RIGHT}.bmp"
    write_picture(path, (32, 56), np.random.default_rng(9))
    done = script(root, "--reader", "folder", "--bit-depth", "12")
    assert done.returncode == 0, done.stdout
    assert f"an image of view {RIGHT} of another shape than in training (32 x 56 pixels" in done.stdout
    assert script(root, "--strict").returncode == 1
    done = script(root, "--reader", "folders")
    assert done.returncode == 2
    assert done.stderr.startswith("error: config data.reader='folders': ")
    assert "did you mean 'folder'?" in done.stderr


def test_the_home_folder_is_found_behind_a_tilde(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert script(f"~/{root.name}").returncode == 0


def test_other_layouts_are_checked_too_and_an_unknown_one_is_a_usage_mistake(tmp_path, root):
    realiad = write_realiad(tmp_path / "realiad", categories=("cap",), train=5, size=24)
    prepare(root, tmp_path / "prepared")
    for place, reader in ((realiad, "real_iad"), (tmp_path / "prepared", "prepared")):
        found = check_data(place)
        assert (found.source["reader"], found.problems) == (reader, [])
    assert [s.label for s in found.samples] == [s.label for s in open_data(root).samples]
    done = script(tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: data.root {tmp_path / 'none'}: no such folder")
