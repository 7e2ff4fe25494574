"""Images at work are read and judged as those of training, through every door: test split, new images, Inspector,
watched folder."""

import json
import logging
import shutil

import cv2
import jax
import numpy as np
import pytest
from own_data import write_folders
from PIL import Image

from mvead_jax import Inspector
from mvead_jax.config.schema import BackboneConfig, DataConfig, EvalConfig
from mvead_jax.evaluation.score_files import read_images
from mvead_jax.evaluation.tables import format_table
from mvead_jax.jobs.dry_run import plan_scoring, plan_training
from mvead_jax.jobs.evaluate_again import evaluate_again
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.jobs.workdir import model_folder, trained_images
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.scoring.model_store import FACTS
from mvead_jax.serving.watch.journal import Journal
from mvead_jax.serving.watch.watcher import JOURNAL, Watcher

CAMERAS = {"left": (".png", (128, 64)), "right": (".png", (64, 64))}
STRICT = {"data.strict": "true"}


def deepen(path, factor=16):
    """Store an image in 16 bits a channel, as a camera of 12 bits does."""
    pixels = cv2.imread(str(path)).astype(np.uint16) * factor
    pixels[0, 0] = 255 * factor  # or nothing tells how many bits there are
    cv2.imwrite(str(path), pixels)


def turn(path):
    cv2.imwrite(str(path), np.ascontiguousarray(np.rot90(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))))


def config_of(root, **data):
    return PatchCoreConfig(
        data=DataConfig(root=str(root), image_size=64, **data),
        backbone=BackboneConfig(name="efficientnet-lite0", weights="random"),
        eval=EvalConfig(bootstrap=0),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Left is a camera of 12 bits; one defect is marked by a single pixel."""
    folder = write_folders(tmp_path_factory.mktemp("data") / "own", CAMERAS, train=3, good=1, defective=2)
    for path in folder.glob("t*/*/*/left.png"):
        deepen(path)
    first = sorted(folder.glob("ground_truth/*/*/left.png"))[0]
    speck = np.zeros((64, 128), np.uint8)
    speck[30, 31] = 255
    Image.fromarray(speck).save(first)
    return folder


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "own"
    train(config_of(root), workdir)
    score(workdir, report=True)
    return workdir


@pytest.fixture
def turned(root, tmp_path):
    """The data set with a test image of the left camera on its side."""
    copy = shutil.copytree(root, tmp_path / "own")
    turn(copy / "test/good/teil 00/left.png")
    return copy


def scores(folder):
    return {(line.sample, line.view): line.score for line in read_images(folder)}


def warned(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_a_model_remembers_bit_depth_and_sizes(run):
    found = trained_images(run)
    assert found.bit_depth == 12
    assert found.sizes == {"own": {"left": [[128, 64]], "right": [[64, 64]]}}


@pytest.mark.parametrize(
    "change", [{"bit_depth": 9}, {"sizes": {"own": {"left": [[0, 1]]}}}, {"sizes": 3}, None], ids=str
)
def test_facts_that_are_none_are_refused_in_one_line(run, tmp_path, change):
    copy = shutil.copytree(run, tmp_path / "run")
    path = model_folder(copy, "own") / FACTS
    facts = json.loads(path.read_text())
    facts["images"] = None if change is None else facts["images"] | change
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"facts.json: .*; train again$"):
        trained_images(copy)


def test_the_protocol_says_the_bit_depth_the_lists_and_what_vanished(run):
    metrics = json.loads((run / "scores/metrics.json").read_text())
    told = metrics["protocol"]
    assert told["bit_depth"] == 12
    assert (told["reader"], told["list_views"]) == ("folder", "all views: left, right")
    words = (
        "marked defects of which no pixel is left at 64 x 64 pixels: own 1 of 2; their pixels count as normal"
    )
    assert told["vanished_masks"].startswith(words)
    assert f"WARNING: {words}" in format_table(metrics)
    assert words in (run / "scores/report/index.html").read_text().partition("<details")[0]


def test_evaluating_again_warns_and_at_the_masks_own_size_nothing_vanishes(run, caplog):
    before = (run / "scores/metrics.json").read_bytes()
    evaluate_again(run, protocols=["official"], report=False)
    assert (run / "scores/metrics.json").read_bytes() == before
    assert [line.partition(":")[0] for line in warned(caplog)] == ["protocol mvead"]
    official = json.loads((run / "scores/metrics_official.json").read_text())
    assert official["protocol"]["vanished_masks"] == "none"
    assert "WARNING" not in format_table(official)


def test_another_shape_is_a_warning_by_view_and_under_strict_an_error(run, turned, tmp_path, caplog):
    moved = {"data.root": str(turned)}
    score(run, tmp_path / "scores", overrides=moved, report=False)
    words = (
        "own: an image of view left of another shape than in training (64 x 128 pixels, in training 128 x 64)"
    )
    assert any(line.startswith(words) for line in warned(caplog))
    caplog.clear()
    plan_scoring(run, tmp_path / "scores", overrides=moved)
    assert any(line.startswith(words) for line in warned(caplog))
    for job in (score, plan_scoring):
        with pytest.raises(DataProblems, match=r"\(data.strict\): own: an image of view left"):
            job(run, tmp_path / "strict", overrides=moved | STRICT)
    assert not (tmp_path / "strict").exists()


def test_a_training_says_so_of_its_test_images(turned, tmp_path, caplog):
    plan_training(config_of(turned), tmp_path / "run")
    assert any("an image of view left of another shape" in line for line in warned(caplog))
    with pytest.raises(DataProblems, match=r"\(data.strict\): own: an image of view left"):
        train(config_of(turned, strict=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_new_images_are_read_with_the_bit_depth_of_training(run, root, tmp_path, caplog):
    expected = {
        view: own for (sample, view), own in scores(run / "scores").items() if sample == "good/teil 00"
    }
    shutil.copytree(root / "test/good/teil 00", tmp_path / "new/a")
    shutil.copytree(root / "test/good/teil 00", tmp_path / "new/b")
    turn(tmp_path / "new/b/left.png")
    score(run, tmp_path / "scores", images=tmp_path / "new", report=False)
    found = scores(tmp_path / "scores")
    assert {view: found["a", view] for view in CAMERAS} == expected
    assert any("another shape than in training" in line and "b/left.png" in line for line in warned(caplog))
    told = json.loads((tmp_path / "scores/metrics.json").read_text())["protocol"]
    assert (told["bit_depth"], told["list_views"]) == (12, "all views: left, right")
    deepen(tmp_path / "new/a/left.png", 100)
    with pytest.raises(UserError, match="its largest value is .*, more than the 4095 of 12 bits"):
        score(run, tmp_path / "other", images=tmp_path / "new", report=False)


def test_a_test_split_beside_other_training_images_is_read_as_in_training(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "own")
    for path in (tmp_path / "own/train").glob("*/*/left.png"):
        deepen(path, 200)  # 16 bits by themselves
    score(run, tmp_path / "scores", overrides={"data.root": str(tmp_path / "own")}, report=False)
    assert scores(tmp_path / "scores") == scores(run / "scores")


def test_an_inspector_reads_paths_and_arrays_of_16_bits_and_warns_of_shapes(run, root, tmp_path, caplog):
    inspector = Inspector.load(run)
    folder = root / "test/good/teil 00"
    expected = {
        view: own for (sample, view), own in scores(run / "scores").items() if sample == "good/teil 00"
    }
    deep = np.ascontiguousarray(cv2.imread(str(folder / "left.png"), cv2.IMREAD_UNCHANGED)[..., ::-1])
    assert deep.dtype == np.uint16
    for left in (folder / "left.png", str(folder / "left.png"), Image.open(folder / "left.png"), deep):
        found = inspector.inspect({"left": left, "right": folder / "right.png"})
        assert {view: np.float32(own) for view, own in found.scores.items()} == expected
        assert found.warnings == () == tuple(found.as_json()["warnings"])
    lost = Image.open(folder / "left.png")
    lost.load()
    for form in (lost, lost.copy(), np.asarray(lost)):
        found = inspector.inspect({"left": form, "right": folder / "right.png"})
        assert found.warnings[0].startswith("view left: no value is above 15 of 255")
    with pytest.raises(
        UserError, match="view left: its largest value is 65535, more than the 4095 of 12 bits"
    ):
        inspector.inspect({"left": np.full((64, 128, 3), 65535, np.uint16)})
    caplog.clear()
    for form in (np.ascontiguousarray(np.rot90(deep)), np.full((128, 64, 3), 99, np.uint8)):
        found = inspector.inspect({"left": form, "right": folder / "right.png"})
        (warning,) = found.warnings
        assert warning.startswith("view left: another shape than in training (64 x 128 pixels")
        assert f"; warning: {warning}" in found.text
    assert len(warned(caplog)) == 1  # in the log once, on every result
    strict = Inspector.load(run, overrides=STRICT, warm=False)
    with pytest.raises(UserError, match=r"view left: another shape .*\(data.strict\)"):
        strict.inspect({"left": np.full((128, 64, 3), 99, np.uint8)})
    with pytest.raises(UserError, match=r"view left: no value is above 15 .*\(data.strict\)"):
        strict.inspect({"left": lost})


def test_a_watched_folder_gets_the_warning_in_its_line_and_under_strict_an_error(run, root, tmp_path):
    shutil.copytree(root / "test/good/teil 00", tmp_path / "in/a")
    turn(tmp_path / "in/a/left.png")
    for name, overrides in (("plain", {}), ("strict", STRICT)):
        inspector = Inspector.load(run, overrides=overrides)
        watcher = Watcher(inspector, tmp_path / "in", Journal(tmp_path / name / JOURNAL), timeout=10)
        lines = [line for now in (0.0, 1.0, 20.0) for line in watcher.look(now)]
        (line,) = lines
        if overrides:
            assert "view left: another shape than in training" in line["error"]
            assert "score" not in line
        else:
            assert line["warnings"][0].startswith("view left: another shape than in training")
            assert line["score"] > 0


def test_a_host_with_float64_gets_the_same_scores(run, root, tmp_path):
    folder = root / "test/good/teil 00"
    given = {view: folder / f"{view}.png" for view in CAMERAS}
    expected = Inspector.load(run).inspect(given)
    with jax.enable_x64(True):
        found = Inspector.load(run).inspect(given)
        score(run, tmp_path / "scores", report=False)
    assert found.maps.dtype == np.float32
    np.testing.assert_array_equal(found.maps, expected.maps)
    assert scores(tmp_path / "scores") == scores(run / "scores")
