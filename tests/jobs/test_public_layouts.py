"""Public data sets in their own layouts go from check to report, and damaged copies get one clear line each."""

import csv
import json
import runpy
import shutil
from dataclasses import replace

import pytest
from calling import call
from public_layouts import LAYOUTS

from mvead_jax.config.io import load_config
from mvead_jax.data.readers import open_configured, open_data
from mvead_jax.runtime.errors import UserError

SMALL = (
    "--config.data.image_size=32",
    "--config.eval.bootstrap=0",
    "--config",
    "configs/folder.py:patchcore",
)
VIEWS = {
    "manta": [f"V{at}" for at in range(1, 6)],
    "real_iad_variety": [f"C{at}" for at in range(1, 6)],
    "m2ad": ["000_01", "000_02", "030_01", "030_02"],
}  # of other readers: one, called `view`
NAMED = {"m2ad": "m2ad_synergy"}  # other names of configs
# By layout: the reader, and of one category how many samples the test set has, and how many of their views show a
# defect.
EXPECTED = {
    "mvtec_ad": ("single_view", "bottle", 6, 4),
    "mvtec_ad_2": ("single_view", "can", 4, 2),
    "btad": ("single_view", "01", 4, 2),
    "mpdd": ("single_view", "tubes", 4, 2),
    "visa": ("visa", "candle", 4, 2),
    "real_iad_variety": ("real_iad_variety", "gear", 4, 4),
    "manta": ("manta", "gear", 4, 4),
    "pad": ("pad", "01Gorilla", 8, 6),
    "m2ad": ("m2ad", "Bird", 4, 6),
}


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_public_data_set_goes_from_check_to_report(name, tmp_path):
    reader, category, test, shown = EXPECTED[name]
    root = LAYOUTS[name](tmp_path / "data")
    checked = call("check_data", root)
    assert checked.returncode == 0, checked.stdout
    assert f"read as {reader} " in checked.stdout
    data = f"--config.data.root={root}"
    trained = call(
        "train", "--workdir", tmp_path / "run", data, f"--config.data.categories={category}", *SMALL
    )
    assert trained.returncode == 0, trained.stderr
    scored = call("score", "--workdir", tmp_path / "run")
    assert scored.returncode == 0, scored.stderr
    metrics = json.loads((tmp_path / "run/scores/metrics.json").read_text())
    assert metrics["protocol"]["reader"] == reader
    levels = metrics["categories"][category]
    assert (levels["sample"]["count"], levels["image"]["defective"]) == (test, shown)
    assert levels["pixel"]["defective_without_mask"] == 0
    assert levels["pixel"]["auroc"] > 0.8  # masks lie where the defects are
    images = lines(tmp_path / "run/scores/images.csv")
    assert sorted({line["view"] for line in images}) == VIEWS.get(reader, ["view"])
    assert (tmp_path / "run/scores/report/index.html").stat().st_size > 1000


def test_new_images_of_one_view_are_samples_themselves_or_lie_in_a_folder_of_their_name(tmp_path):
    root = LAYOUTS["mpdd"](tmp_path / "data")
    assert call("train", "--workdir", tmp_path / "run", f"--config.data.root={root}", *SMALL).returncode == 0
    assert call("score", "--workdir", tmp_path / "run").returncode == 0
    known = {one["sample"]: one["score"] for one in lines(tmp_path / "run/scores/samples.csv")}
    new = tmp_path / "new"
    shutil.copytree(root / "tubes/test/anomalous", new)
    for layout in ("flat", "folders"):
        done = call("score", "--workdir", tmp_path / "run", "--input", new, "--output", tmp_path / layout)
        assert done.returncode == 0, done.stderr
        scores = {
            f"anomalous/{one['sample']}": one["score"] for one in lines(tmp_path / layout / "samples.csv")
        }
        assert scores.keys() == {name for name in known if name.startswith("anomalous")}
        for name, score in scores.items():
            assert float(score) == pytest.approx(float(known[name]), rel=1e-5)
        for path in new.glob("*.png"):
            path.with_suffix("").mkdir()
            path.rename(path.with_suffix("") / "view.png")
    (new / "000/view.png").rename(new / "000/side.png")
    done = call("score", "--workdir", tmp_path / "run", "--input", new, "--output", tmp_path / "wrong")
    assert done.returncode == 2
    assert "000/side.png: view 'side' is unknown; a sample is <sample>/view.<ext>, or an image" in done.stderr


def test_a_method_that_compares_views_says_in_one_line_what_it_needs(tmp_path):
    root = LAYOUTS["mpdd"](tmp_path / "data")
    done = call(
        "train", "--workdir", tmp_path / "run", f"--config.data.root={root}", *SMALL[:-1], "configs/mvad.py"
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "compares views with each other, and this data has one; take another method" in line


@pytest.mark.parametrize("name", runpy.run_path("configs/data_sets.py")["SETS"])
def test_a_config_for_each_public_data_set_names_a_reader_that_knows_its_layout(name, tmp_path):
    config = load_config(f"configs/data_sets.py:{name}")
    layout = "m2ad" if name.startswith("m2ad") else name
    index = open_configured(replace(config.data, root=str(LAYOUTS[layout](tmp_path))))
    assert config.data.reader == EXPECTED[layout][0]
    assert len(index.select(split="train")) == {"mvtec_ad": 12, "m2ad_invariant": 12}.get(name, 6)


def test_a_config_of_no_such_data_set_names_those_that_are_there():
    with pytest.raises(
        UserError, match="configs/data_sets.py:mvtec: no such data set; choose mvtec_ad, mvtec_ad_2"
    ):
        load_config("configs/data_sets.py:mvtec")


def test_prepared_data_of_a_readers_options_scores_as_its_files(tmp_path):
    root = LAYOUTS["m2ad"](tmp_path / "data")
    done = call("prepare_data", "--root", root, "--output", tmp_path / "out", "--options", "lights=samples")
    assert done.returncode == 0, done.stderr
    assert "in_root-realiad_jsons-lights_samples" in {
        path.name for path in (tmp_path / "out/Bird/realiad").iterdir()
    }
    prepared, raw = open_data(tmp_path / "out"), open_data(root, options=["lights=samples"])
    assert prepared.samples == raw.samples
    assert (
        call("prepare_data", "--root", root, "--output", tmp_path / "x", "--options", "lights=y").returncode
        == 2
    )
