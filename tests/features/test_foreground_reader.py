"""Masks of samples from files and from features; what leaves the background out of maps."""

import dataclasses
import json

import numpy as np
import pytest
from own_data import write_folders
from PIL import Image

from mvead_jax.config.schema import DataConfig, DecisionConfig, EvalConfig
from mvead_jax.data.foreground import automatic_foreground
from mvead_jax.data.readers import open_configured
from mvead_jax.evaluation.score_files import read_maps
from mvead_jax.features.foreground import foreground_digest, foreground_reader, foreground_words
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.jobs.workdir import model_folder
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.scoring.scorer import without_background
from mvead_jax.serving.export.artefact import export
from mvead_jax.serving.inspector import Inspector

CAMERAS = {"left": (".png", (48, 40)), "right": (".png", (40, 40))}
GRID = (4, 4)


@pytest.fixture
def root(tmp_path):
    return write_folders(tmp_path / "part", CAMERAS, train=4, good=1, defective=1)


def write_masks(index, share=0.5, suffix=".foreground.png"):
    """The left part of every image is foreground."""
    for sample in index.samples:
        for view in sample.views:
            path = index.root / view.image
            with Image.open(path) as image:
                width, height = image.size
            levels = np.zeros((height, width), np.uint8)
            levels[:, : round(share * width)] = 255
            Image.fromarray(levels).save(path.with_name(path.stem + suffix))


def data_of(root, **fields):
    return DataConfig(root=str(root), image_size=64, **fields)


def features_of(index, seed=0):
    shape = (len(index), len(index.views), *GRID, 5)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_without_a_foreground_there_is_no_reader(root):
    config = data_of(root)
    index = open_configured(config)
    assert foreground_reader(config, index, features_of(index)) is None
    assert foreground_digest(config, index, root / "cache") == {}


def test_files_beside_the_images_are_read_and_are_no_views(root):
    config = data_of(root, foreground="files")
    before = open_configured(config)
    write_masks(before)
    index = open_configured(config)
    assert index.views == before.views
    assert len(index) == len(before)
    reader = foreground_reader(config, index, features_of(index))
    masks = reader(np.array([2, 0]))
    assert masks.shape == (2, 2, *GRID)
    assert reader(np.array([], int)).shape == (0, 2, *GRID)
    assert masks[..., :2].all()
    assert not masks[..., 2:].any()


def test_a_missing_view_is_background(root):
    config = data_of(root, foreground="automatic", incomplete="keep")
    (root / "train/good/teil 00/left.png").unlink()
    index = open_configured(config).select(split="train")
    features = features_of(index)
    masks = foreground_reader(config, index, features)(np.arange(len(index)))
    assert not masks[0, 0].any()
    np.testing.assert_array_equal(masks[1, 0], automatic_foreground(features[1, 0]))


def test_every_mask_that_is_not_there_is_named_at_once(root):
    config = data_of(root, foreground="files")
    index = open_configured(config)
    with pytest.raises(DataProblems, match=r"data.foreground=files: .* problems") as error:
        foreground_reader(config, index, features_of(index))
    assert len(error.value.problems) == sum(len(sample.views) for sample in index.samples)
    assert "left.foreground.png: no such file, the foreground mask of" in error.value.problems[0]


def test_a_changed_mask_is_another_foreground(root):
    config = data_of(root, foreground="files")
    index = open_configured(config)
    write_masks(index)
    first = foreground_digest(config, index, root / "cache")
    assert foreground_digest(config, index, root / "cache") == first
    write_masks(index, 0.4)
    assert foreground_digest(config, index, root / "cache")["files"] != first["files"]
    assert "rule area" in foreground_words(config)


def test_the_background_of_a_larger_map_is_zero():
    maps = np.ones((1, 1, 4, 6), np.float32)
    mask = np.array([[True, False], [False, True]])[None, None]
    found = without_background(maps, mask)
    np.testing.assert_array_equal(found[0, 0], np.kron(mask[0, 0], np.ones((2, 3))))


def test_a_run_with_masks_scores_the_background_zero_and_draws_it(root, tmp_path):
    base = PatchCoreConfig.debug()
    config = dataclasses.replace(
        base,
        data=data_of(root, foreground="files"),
        decision=DecisionConfig(),
        eval=EvalConfig(bootstrap=0),
    )
    index = open_configured(config.data)
    write_masks(index)
    train(config, tmp_path / "run")
    metrics = score(tmp_path / "run", report=False)
    assert metrics["protocol"]["foreground"].startswith("masks beside the images")
    (category,) = index.categories
    maps = read_maps(tmp_path / "run/scores", category)
    half = maps.shape[2] // 2
    assert (maps[..., :half] > 0).all()
    assert not maps[..., half:].any()
    assert (tmp_path / f"run/geometry/pictures/{category}_foreground.png").is_file()
    facts = json.loads((model_folder(tmp_path / "run", category) / "facts.json").read_text())
    assert facts["foreground"]["source"] == "files"
    with pytest.raises(UserError, match="data.foreground=files, and images that are handed over"):
        Inspector.load(tmp_path / "run")
    with pytest.raises(UserError, match="no exported function can make"):
        export(tmp_path / "run", tmp_path / "artefact")


def test_the_inspector_makes_the_masks_of_a_run_with_automatic_ones(root, tmp_path):
    config = dataclasses.replace(
        PatchCoreConfig.debug(),
        data=data_of(root, foreground="automatic"),
        decision=DecisionConfig(),
        eval=EvalConfig(bootstrap=0),
    )
    train(config, tmp_path / "run")
    score(tmp_path / "run", report=False)
    index = open_configured(config.data).select(split="test")
    inspector = Inspector.load(tmp_path / "run", warm=False)
    sample = index.samples[0]
    found = inspector.inspect({view.name: index.root / view.image for view in sample.views})
    (category,) = index.categories
    written = read_maps(tmp_path / "run/scores", category)[: len(sample.views)]
    np.testing.assert_allclose(found.maps, written, rtol=1e-3, atol=1e-3)
