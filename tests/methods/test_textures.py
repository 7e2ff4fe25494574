"""A folder of textures, for every method that pastes them: what of it a training depends on, and when it is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from own_data import write_folders
from PIL import Image

from mvead_jax.config.io import override
from mvead_jax.jobs.dry_run import plan_training
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.registry import METHODS
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.scoring.model_store import read_facts
from mvead_jax.training.checkpoints import Checkpoints

VIEWS = {"left": (".png", (40, 40)), "right": (".png", (40, 40))}


def write_textures(folder, seed=0):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "texture.png")
    return folder


@pytest.fixture(params=["destseg", "idif"])
def config(request, tmp_path):
    write_folders(tmp_path / "part", VIEWS, train=4, good=1, defective=1)
    base = METHODS.load(request.param).debug()
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, root=str(tmp_path / "part")))
    changes = {f"{base.method}.textures": str(tmp_path / "textures"), "eval.bootstrap": "0"}
    return override(base, changes)


def test_textures_that_were_changed_are_not_mixed_with_the_earlier_ones(config, tmp_path, monkeypatch):
    textures, workdir = write_textures(tmp_path / "textures"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "stopping", lambda self: True)
        with pytest.raises(Stopped):
            train(config, workdir)
    write_textures(textures, seed=1)
    with pytest.raises(UserError, match=rf"other settings or data \(files\.{config.method}\.textures\)"):
        train(config, workdir)
    write_textures(textures, seed=0)
    train(config, workdir)
    earlier = read_facts(workdir / "models/part")
    assert set(earlier["files"]) == {f"{config.method}.textures"}
    write_textures(textures, seed=1)
    train(config, workdir)
    assert read_facts(workdir / "models/part")["files"] != earlier["files"]
    shutil.rmtree(textures)
    score(workdir, report=False)  # which reads no texture


def test_a_folder_without_textures_is_refused_before_anything_is_computed(config, tmp_path):
    for words in ("no such folder", "no image there"):
        for job in (plan_training, train):
            with pytest.raises(UserError, match=f"{tmp_path}/textures: {words}"):
                job(config, tmp_path / "run")
        (tmp_path / "textures").mkdir(exist_ok=True)
    assert not (tmp_path / "run").exists()
