"""Which trainings hold an operation that a GPU cannot repeat to the last bit: they are lowered for it, and read.

--xla_gpu_exclude_nondeterministic_ops refuses to compile select-and-scatter, the gradient of max pooling: of which
methods, is said in docs/reproducibility.md.
"""

import re
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from own_data import write_folders

from mvead_jax.backbones.base import load_backbone
from mvead_jax.config.schema import DataConfig
from mvead_jax.data.readers import open_configured
from mvead_jax.features.images import image_reader
from mvead_jax.geometry.masks import all_keys
from mvead_jax.methods.base import PATCHES, RunContext, Spec, TrainData, Trains, foreground_tap
from mvead_jax.methods.registry import METHODS
from mvead_jax.training import loop

DOCS = Path(__file__).parents[2] / "docs/reproducibility.md"
CAMERAS = {"left": (".png", (40, 40)), "right": (".png", (40, 40)), "top": (".png", (40, 40))}


_ADDS = r"stablehlo\.scatter(?:(?!stablehlo\.return).)*stablehlo\.add"


class Lowered(Exception):
    """The first step of a training, in words, in place of doing it."""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = write_folders(
        tmp_path_factory.mktemp("data") / "part", CAMERAS, train=4, good=0, defective=0, defects=()
    )
    return open_configured(DataConfig(root=str(root))).select(split="train")


@pytest.fixture
def lowering(monkeypatch):
    """A training ends with what its first step is for an NVIDIA GPU."""

    def make_step(loss, optimiser, key):
        def step(state, batch):
            def of_parameters(parameters, extras, batch):
                return loss(parameters, extras, batch, key)

            given = state["parameters"], state["extras"], batch
            traced = jax.jit(jax.grad(of_parameters, has_aux=True)).trace(*given)
            raise Lowered(traced.lower(lowering_platforms=("cuda",)).as_text())

        return step

    monkeypatch.setattr(loop, "make_step", make_step)


def step_of(name, index):
    """The first step of a method's training, as text; None where it trains nothing step by step."""
    config = METHODS.load(name).debug()
    size = config.data.image_size
    backbone = load_backbone(config.backbone, size, config.requires().taps, 0)
    method = config.build(Spec.of(index.views, index.categories, backbone, name))
    if not (isinstance(method, Trains) and method.training):
        return None
    random, samples = np.random.default_rng(0), (len(index), len(index.views))
    features = {
        tap: random.standard_normal((*samples, *shape), np.float32) for tap, shape in backbone.shapes.items()
    }
    maps = method.spec.maps
    keys = {"part": all_keys(len(index.views), maps[PATCHES][:2] if PATCHES in maps else (4, 4))}
    images = image_reader(index, size) if method.requires.images else None
    grid = maps[foreground_tap(maps)][:2]
    foreground = (
        (lambda rows: np.ones((len(rows), samples[1], *grid), bool)) if method.requires.foreground else None
    )
    with pytest.raises(Lowered) as found:
        method.fit(TrainData(index, features, keys, backbone, images, foreground), RunContext(0))
    return str(found.value)


@pytest.mark.parametrize("name", METHODS.known)
def test_the_docs_name_the_trainings_that_a_gpu_does_not_repeat(name, index, lowering):
    told = re.sub(r"\s+", " ", DOCS.read_text())
    pooled = re.search(r"do not run with it: ([^.]*)\.", told)[1]
    added = re.search(r"The trainings with a scatter that adds: ([^.]*)\.", told)[1]
    text = step_of(name, index) or "stablehlo."
    assert "stablehlo." in text
    assert (f"`{name}`" in pooled) == ("select_and_scatter" in text)
    assert (f"`{name}`" in added) == bool(re.search(_ADDS, text, re.DOTALL))
