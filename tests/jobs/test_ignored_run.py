"""data.ignore from a folder of masks to scores, the report, an Inspector and an artefact."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax.config.io import override
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.evaluation.score_files import read_images, read_maps, read_samples
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.base import Spec
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.methods.registry import METHODS
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import STATE, map_rows, read_facts
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.export.function import load_exported
from mvead_jax.serving.inspector import Inspector

SIDE, GRID = 40, (4, 4)
LEFT = np.zeros((SIDE, SIDE), bool)
LEFT[:, :20] = True  # of C2: the left half of its patches


def paint(path, mask=LEFT):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def config_for(root, **changes):
    fields = {"eval.bootstrap": "0", "decision.held_out": "0.5", "decision.false_alarms": "0.34"}
    return override(
        PatchCoreConfig(
            data=DataConfig(root=str(root), image_size=64, categories=("cap",)),
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=2),
        ),
        fields | {key.replace("__", "."): value for key, value in changes.items()},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_realiad(tmp_path_factory.mktemp("data"), size=SIDE, views=3, train=6, categories=("cap",))
    paint(folder / "ignore/cap/C2.png")
    return folder


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """(without masks, with masks): workdirs that are trained and scored."""
    made = []
    for name, ignore in (("plain", ""), ("ignoring", "ignore")):
        workdir = tmp_path_factory.mktemp("runs") / name
        train(config_for(root, data__ignore=ignore), workdir)
        score(workdir)
        made.append(workdir)
    return made


def test_banks_hold_the_rows_of_the_patches_that_count_and_no_others(runs):
    for view in ("C1", "C2", "C3"):
        plain, own = (np.asarray(map_rows(run / "models/cap" / STATE, f"banks/{view}")) for run in runs)
        kept = np.ones((3, *GRID), bool)
        kept[:, :, :2] = view != "C2"
        np.testing.assert_array_equal(own, plain[kept.ravel()])


def test_ignored_patches_have_the_lowest_score_and_are_never_the_place_of_a_defect(runs):
    folder = runs[1] / "scores"
    lines = read_images(folder)
    maps = read_maps(folder, "cap", len(lines)).astype(np.float32)
    for line, own in zip(lines, maps, strict=True):
        if line.view == "C2":
            assert (own[:, :2] == own[:, 2:].min()).all()
            assert float(line.score) == pytest.approx(own[:, 2:].max(), rel=1e-3)
    for line in read_samples(folder):
        if line.worst_view == "C2" and line.decision == "fail" and line.reason.startswith("C2"):
            assert int(line.reason.split("(")[1].split(",")[0]) >= 20


def test_the_protocol_the_model_and_the_report_say_what_is_ignored(runs):
    plain, own = (json.loads((run / "scores/metrics.json").read_text())["protocol"] for run in runs)
    digest = read_facts(runs[1] / "models/cap")["ignored"]["cap"]["C2"]
    assert plain["ignored"] == "nothing"
    assert own["ignored"].startswith(f"cap C2 50 % (sha256 {digest[:16]}) of its pixels")
    assert plain["scores_digest"] != own["scores_digest"]
    for run, outlines in ((runs[0], {}), (runs[1], {"1": "M0 0L0 1000L500 1000L500 0Z"})):
        text = (run / "scores/report/index.html").read_text()
        data = json.loads(text.split('id="data">')[1].split("</script>")[0])
        assert {at: len(path) for at, path in data["categories"][0]["ignored"].items()} == pytest.approx(
            {at: len(path) for at, path in outlines.items()}, abs=4
        )


def test_an_inspector_and_an_artefact_ignore_the_same_and_need_no_masks(runs, root, tmp_path):
    folder = runs[1] / "scores"
    scores = {line.sample: line.score for line in read_samples(folder)}
    inspector = Inspector.load(runs[1], warm=False)
    images = [line for line in read_images(folder) if line.sample == next(iter(scores))]
    given = {line.view: root / line.image for line in images}
    found = inspector.inspect(given)
    assert np.float32(found.score) == scores[images[0].sample]
    export(runs[1], tmp_path / "artefact")
    assert not verify(tmp_path / "artefact")[0]
    shipped = Inspector.load(tmp_path / "artefact", warm=False)
    assert shipped.inspect(given).score == found.score
    pictures, present, _ = inspector.preprocess(given)
    maps = load_exported(tmp_path / "artefact", "cap")(pictures, present)["maps"]
    np.testing.assert_allclose(maps, found.maps, rtol=1e-4, atol=1e-4)
    assert "ignore" not in json.loads((tmp_path / "artefact/config.json").read_text())["data"]["ignore"]


def test_a_changed_mask_is_refused_and_a_lost_folder_is_not_needed(runs, root, tmp_path):
    moved = shutil.copytree(root, tmp_path / "data")
    elsewhere = {"data.root": str(moved)}
    paint(moved / "ignore/cap/C3.png")
    message = r"ignore: changed since training \(cap C3\), .*; train again, or put the earlier ones back"
    with pytest.raises(UserError, match=message):
        score(runs[1], tmp_path / "out", overrides=elsewhere)
    with pytest.raises(UserError, match=message):
        Inspector.load(runs[1], overrides=elsewhere, warm=False)
    (moved / "ignore/cap/C3.png").unlink()
    paint(moved / "ignore/cap/C2.png", LEFT.T)
    with pytest.raises(UserError, match=r"changed since training \(cap C2\)"):
        score(runs[1], tmp_path / "out", overrides=elsewhere)
    shutil.rmtree(moved / "ignore")
    again = score(runs[1], tmp_path / "out", overrides=elsewhere, report=False)
    assert again["protocol"]["ignored"].startswith("cap C2 50 %")
    with pytest.raises(UserError, match=r"--config.data.ignore: fixed by the training"):
        score(runs[1], tmp_path / "out", overrides={"data.ignore": "other"})


def test_another_mask_trains_the_model_again(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    config, path = config_for(data, data__ignore="ignore"), tmp_path / "run/models/cap" / STATE
    train(config, tmp_path / "run")
    first = path.stat().st_mtime_ns
    train(config, tmp_path / "run")
    assert path.stat().st_mtime_ns == first
    paint(data / "ignore/cap/C2.png", LEFT.T)
    train(config, tmp_path / "run")
    assert path.stat().st_mtime_ns != first
    paint(data / "ignore/cap/C2.png", np.zeros((SIDE, SIDE - 1), bool))
    with pytest.raises(UserError, match="C2.png: ignores nothing"):
        train(config, tmp_path / "run")


def test_a_loss_of_the_foreground_alone_leaves_the_ignored_out(root, tmp_path, monkeypatch):
    config = METHODS.load("multiflow").debug()
    config = replace(
        config,
        data=replace(config.data, root=str(root), categories=("cap",), ignore="ignore"),
        geometry=replace(config.geometry, nominal=(), on_failure="unconstrained"),
    )
    kind = type(config.build(Spec.of(("C1", "C2", "C3"), ("cap",), load_method_backbone(config))))
    given = []

    def fit(method, data, run):
        given.append(data.foreground(np.arange(2)))
        raise UserError("seen")

    monkeypatch.setattr(kind, "fit", fit)
    with pytest.raises(UserError, match="seen"):
        train(config, tmp_path / "run")
    (masks,) = given
    half = masks.shape[3] // 2
    assert masks[:, [0, 2]].all()
    assert not masks[:, 1, :, :half].any()
    assert masks[:, 1, :, half:].all()


def test_a_mask_that_leaves_no_patch_of_a_view_is_refused_before_anything_is_learned(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    nearly = np.ones((SIDE, SIDE), bool)
    nearly[:3, :3] = False
    paint(data / "ignore/cap/C2.png", nearly)
    with pytest.raises(UserError, match="no patch of C2 of cap would count, of 4 x 4"):
        train(config_for(data, data__ignore="ignore"), tmp_path / "run")
    assert not list((tmp_path / "run/models").glob("*"))
