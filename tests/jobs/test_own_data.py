"""From images of one's own to scores: cameras of any number, name, format and size."""

import csv
import json
import logging
import shutil

import cv2
import numpy as np
import pytest
from own_data import CAMERAS, write_folders
from PIL import Image

from mvead_jax.config.io import load_config, override
from mvead_jax.data.check import check_data
from mvead_jax.data.records import defect_code
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train

LEFT, TOP, RIGHT = CAMERAS
SMALL = {"data.image_size": "32", "eval.bootstrap": "20"}


def config_for(root, spec="configs/folder.py", **changes):
    own = {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(spec)
    training = {"train.epochs": "1"} if hasattr(config, "train") else {}
    return override(config, SMALL | training | {"data.root": str(root)} | own)


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained and scored on three cameras by the config for one's own data."""
    place = tmp_path_factory.mktemp("läufe mit leerzeichen")
    root = write_folders(place / "Mein Teil №1 $x$ [b]")
    train(config_for(root), place / "run")
    score(place / "run")
    return place / "run", root


def test_three_cameras_go_from_check_to_scores_whatever_their_names(run):
    workdir, root = run
    assert not check_data(root).problems
    metrics = json.loads((workdir / "scores/metrics.json").read_text())
    levels = metrics["categories"][root.name]
    assert (levels["sample"]["count"], levels["sample"]["defective"]) == (6, 3)
    assert (levels["image"]["count"], levels["image"]["defective"]) == (18, 6)
    assert levels["pixel"]["auroc"] > 0.5
    assert levels["pixel"]["defective_without_mask"] == 0
    assert metrics["protocol"]["lists"] == "none: folder"
    assert {line["view"] for line in lines(workdir / "scores/images.csv")} == set(CAMERAS)
    assert (workdir / "scores/report/index.html").stat().st_size > 1000
    assert (workdir / f"geometry/pictures/{root.name}.png").exists()
    regions = lines(workdir / "scores/regions.csv")
    assert {(one["sample"].split("/")[0], one["view"]) for one in regions} == {
        ("Kratzer ß", LEFT),
        ("Kratzer ß", TOP),
    }
    assert {defect_code(one["sample"]) for one in regions} == {"Kratzer ß"}


def test_new_parts_are_scored_by_their_folders_as_they_were_in_the_test_split(run, tmp_path):
    workdir, root = run
    shutil.copytree(root / "test/Kratzer ß", tmp_path / "neue Teile")
    score(workdir, tmp_path / "out", images=tmp_path / "neue Teile")
    new = {line["sample"]: line for line in lines(tmp_path / "out/samples.csv")}
    known = {line["sample"]: line for line in lines(workdir / "scores/samples.csv")}
    assert len(new) == 3
    for name, line in new.items():
        assert line["label"] == ""
        assert float(line["score"]) == pytest.approx(float(known[f"Kratzer ß/{name}"]["score"]), rel=1e-5)


def test_prepared_data_and_data_under_another_name_give_the_same_scores(run, tmp_path):
    workdir, root = run
    prepare(root, tmp_path / "prepared")
    shutil.copytree(root, tmp_path / "moved")
    before = (workdir / "scores/samples.csv").read_text()
    for place in ("prepared", "moved"):
        overrides = {"data.root": str(tmp_path / place), "data.categories": root.name}
        score(workdir, tmp_path / f"scores of {place}", overrides=overrides)
        assert (tmp_path / f"scores of {place}/samples.csv").read_text() == before


def test_images_of_12_bits_give_the_scores_of_the_8_bit_images_that_they_hold(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mvead_jax")
    workdir, root = run
    deep = shutil.copytree(root, tmp_path / root.name)
    for path in [path for split in ("train", "test") for path in deep.glob(f"{split}/*/*/*")]:
        values = np.asarray(Image.open(path).convert("RGB")).astype(float)
        path.unlink()
        values = np.round(values * 4095 / 255).astype(np.uint16)
        path.with_suffix(".png").write_bytes(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    train(config_for(deep), tmp_path / "run")
    score(tmp_path / "run")
    assert "read as 12 bits" in caplog.text
    assert "the report is not there" not in caplog.text
    for name in ("samples.csv", f"maps/{root.name}.npz", "report/samples/0.js"):
        found, expected = (place / "scores" / name for place in (tmp_path / "run", workdir))
        assert found.read_bytes() == expected.read_bytes(), name


def test_parts_known_to_be_defective_count_although_no_view_is_labelled(tmp_path):
    root = write_folders(tmp_path / "x", masks=False)
    train(config_for(root, "configs/folder.py:patchcore"), tmp_path / "run")
    metrics = score(tmp_path / "run")
    levels = metrics["categories"]["x"]
    assert (levels["sample"]["count"], levels["sample"]["defective"]) == (6, 3)
    assert (levels["image"]["count"], levels["image"]["defective"]) == (9, 0)
    assert np.isfinite(levels["sample"]["interval"]["auroc"]).all()
    assert {line["label"] for line in lines(tmp_path / "run/scores/samples.csv")} == {"0", "1"}


@pytest.mark.parametrize("count", [1, 2, 16])
def test_any_number_of_views_goes_all_the_way(tmp_path, count, caplog):
    caplog.set_level(logging.INFO, "mvead_jax")
    cameras = {f"cam {number}": (".png", (32, 32)) for number in range(count)}
    root = write_folders(tmp_path / "x", cameras, train=5, good=2, defective=2)
    method = "patchcore" if count == 16 else "mvead"  # a sheet of 16 x 16 epipolar images takes a minute
    untrained = {} if count == 16 else {"train__epochs": "0"}
    if count == 2:  # noise has no trusted pair
        untrained["geometry__on_failure"] = "unconstrained"
    config = config_for(root, f"configs/folder.py:{method}", **untrained)
    train(config, tmp_path / "run")
    metrics = score(tmp_path / "run")
    assert metrics["categories"]["x"]["image"]["count"] == 4 * count
    told = metrics["protocol"]
    alone = [record for record in caplog.records if "one view alone" in record.getMessage()]
    assert len(alone) == (count == 1)
    if count == 1:
        assert (told["method"], told["fusion"], told["geometry"]) == ("patchcore", "none", "not used")
        train(config, tmp_path / "run")  # the same command goes on
        assert "already trained" in caplog.text
    if count == 2:
        assert told["fusion"].startswith("eam")
