"""Data in which there is nothing to tell apart: a defined result, or one line."""

import csv
import json

import numpy as np
import pytest
from fake_realiad import edit_list, write_realiad
from kept_backbones import kept_backbones
from PIL import Image

from mvead_jax.config.io import load_config
from mvead_jax.features import extraction as features_module
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.postprocess.statistics import ScoreStatistics
from mvead_jax.runtime.errors import UserError

__all__ = ["kept_backbones"]
FUSED = {"fusion.init": "random", "train.epochs": "1", "train.centers": "3"}
METHODS = {
    "patchcore": {"method": "patchcore"},
    "coreset": {"method": "patchcore", "bank.kind": "coreset", "bank.share": "0.5"},
    "kmeans": {"method": "patchcore", "bank.kind": "kmeans", "bank.share": "0.5"},
    "eam": FUSED | {"fusion.kind": "eam"},
    "mvas": FUSED | {"fusion.kind": "mvas", "fusion.windows": "2"},
}


def constant(path):
    Image.new("RGB", (24, 24), (120, 90, 60)).save(path)


def black_view(path):
    if "_C2_" in path.name:
        Image.new("RGB", (24, 24)).save(path)


def untouched(path):
    pass


def lacks_views(content):
    """The first training sample and the last test sample have their first view alone."""
    for split, view, sample in (("train", "C1", "0001"), ("test", "C1", "0006")):
        own = [one for one in content[split] if f"_{sample}_" in one["image_path"]]
        for one in own:
            if f"_{view}_" not in one["image_path"]:
                content[split].remove(one)


def one_sample(content):
    del content["train"][2:]


def normal_only(content):
    content["test"] = [one for one in content["test"] if "_OK_" in one["image_path"]]


CASES = {
    "constant images": (constant, None),
    "a view that is black": (black_view, None),
    "one training sample": (untouched, one_sample),
    "samples of a single view": (untouched, lacks_views),
    "no defective sample": (untouched, normal_only),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """How images and list were changed, and the data set; the features beside it serve all methods."""
    change, edit = CASES[request.param]
    root = write_realiad(
        tmp_path_factory.mktemp("case") / "data",
        categories=("cap",),
        train=3,
        normal=2,
        defective=1,
        views=2,
        size=24,
    )
    for path in root.rglob("*.jpg"):
        change(path)
    if edit:
        edit_list(root, "cap", edit)
    return change, edit, root


@pytest.mark.parametrize("method", METHODS)
def test_every_sample_gets_a_finite_score_and_a_metric_is_a_number_or_null(tmp_path, case, method):
    change, edit, root = case
    fields = {
        "data.root": str(root),
        "features.cache": str(root.parent / "features"),
        "data.image_size": "32",
        "data.incomplete": "keep",
        "backbone.name": "efficientnet-lite0",
        "backbone.batch_size": "2",
        "eval.bootstrap": "5",
    }
    train(load_config("configs/realiad.py", fields | METHODS[method]), tmp_path / "run")
    score(tmp_path / "run", report=False)
    with (tmp_path / "run/scores/samples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected = 2 if edit is normal_only else 3
    assert len(lines) == expected
    assert all(np.isfinite(float(line["score"])) for line in lines)
    metrics = json.loads((tmp_path / "run/scores/metrics.json").read_text())["mean"]
    for level in ("sample", "image"):
        value = metrics[level]["auroc"]
        assert (value is None) == (edit is normal_only)
        assert value is None or 0 <= value <= 1
    if change is constant:  # nothing is far from anything
        assert np.ptp([float(line["score"]) for line in lines]) < 1e-3
    if method not in ("patchcore", "eam"):
        return
    evidence = {"score.evidence": "all"}
    score(tmp_path / "run", tmp_path / "evidence", overrides=evidence, report=False)
    with (tmp_path / "evidence/samples.csv").open(newline="") as file:
        assert all(np.isfinite(float(line["score"])) for line in csv.DictReader(file))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused_with_the_sample(tmp_path, monkeypatch, value):
    root = write_realiad(tmp_path / "data", categories=("cap",), train=2, normal=1, defective=1, views=2)
    forward = features_module._forward

    def broken(*arguments):
        found = forward(*arguments)
        found[0]["patches"][1, 0, 0] = value
        return found

    monkeypatch.setattr(features_module, "_forward", broken)
    fields = {"data.root": str(root), "data.image_size": "32", "backbone.name": "efficientnet-lite0"}
    with pytest.raises(
        UserError, match="cap_0002_OK: features that are not finite; check the weights"
    ) as error:
        train(load_config("configs/patchcore.py", fields), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "feature_cache").glob("*.npy"))


def test_no_normal_score_at_all_calibrates_to_nothing():
    found = ScoreStatistics.of(np.full((2, 3, 4, 4), np.nan, np.float32))
    assert (found.mean == 0).all()
    assert (found.deviation == 1).all()
    alike = ScoreStatistics.of(np.full((2, 3, 4, 4), 7, np.float32))
    assert (alike.deviation > 0).all()
