"""What every method keeps, whoever wrote it: the shared contract of the methods that are registered."""

import dataclasses
import functools
import json
import math
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from own_data import write_folders

from mvead_jax.config.io import config_of
from mvead_jax.config.schema import DataConfig, DecisionConfig, EvalConfig
from mvead_jax.evaluation.score_files import read_images, read_maps
from mvead_jax.features.cache import Extraction
from mvead_jax.features.extraction import extract
from mvead_jax.jobs.dry_run import plan_scoring, plan_training
from mvead_jax.jobs.inputs import inputs_of, load_method_backbone, open_index
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.jobs.workdir import Job, checked_facts, model_folder, trained_geometries
from mvead_jax.methods.base import Trains, map_shape, parameter_count
from mvead_jax.methods.registry import METHODS
from mvead_jax.runtime import device_memory, sharding
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.scoring.model_store import STATE, named_leaves
from mvead_jax.scoring.scorer import Scorer
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.inspector import Inspector
from mvead_jax.training.checkpoints import Checkpoints

TOYS = {"toy-gaussian": "methods.toys:GaussianConfig", "toy-network": "methods.toys:NetworkConfig"}
METHODS.known.update(TOYS)
CATEGORY = "part"
CAMERAS = {"left": (".png", (48, 40)), "right": (".png", (40, 40)), "top": (".png", (40, 40))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_folders(folder / CATEGORY, CAMERAS, train=8, good=2, defective=2)
    return folder / CATEGORY


def config_for(method, root, **changes):
    base = METHODS.load(method).debug()
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, root=str(root)),
        geometry=dataclasses.replace(base.geometry, nominal=(), on_failure="unconstrained"),
        decision=DecisionConfig(held_out=0.5, false_alarms=0.5),
        eval=EvalConfig(bootstrap=0),
        **changes,
    )


class Run:
    """A trained and scored workdir of a method, and all that is needed to score again."""

    def __init__(self, method, root, folder):
        self.config = config_for(method, root)
        self.workdir = folder / method
        train(self.config, self.workdir)
        self.metrics = score(self.workdir, report=False)
        self.index = open_index(self.config).select(split="test")
        (self.category,) = self.index.categories
        self.job = self.job_of(self.workdir)
        self.facts = checked_facts(self.workdir, self.category, self.job.backbone)
        self.model = self.job.load(self.category, self.facts)
        self.features = extract(Extraction.of(self.config, self.index, self.job.backbone, self.workdir))
        self.inputs = inputs_of(self.config, self.model.method, self.index, self.features)

    def job_of(self, workdir):
        geometries = trained_geometries(self.config, workdir, (self.category,))
        return Job(self.config, workdir, load_method_backbone(self.config), geometries)

    def scorer(self, model=None):
        keys = self.job.keys(self.model.method, (self.category,))[self.category]
        return Scorer(model or self.model, self.category, keys, self.config.score)

    def maps(self, rows, *, present=None, most=8, scorer=None):
        inputs = self.inputs if present is None else dataclasses.replace(self.inputs, present=present)
        found = {}
        for scored in (scorer or self.scorer()).score(inputs, np.array(rows), most):
            found |= dict(zip(scored.rows.tolist(), scored.maps, strict=True))
        return np.stack([found[row] for row in rows])


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """The runs by method, each made when it is asked for."""
    return functools.cache(lambda method: Run(method, root, tmp_path_factory.mktemp(method)))


@pytest.fixture(params=METHODS.names())
def run(request, runs):
    return runs(request.param)


@pytest.fixture(params=[name for name in METHODS.names() if hasattr(METHODS.load(name).debug(), "train")])
def trained(request, runs):
    """The run of a method that is trained step by step."""
    run = runs(request.param)
    assert isinstance(run.model.method, Trains)
    return run


def test_what_is_saved_and_loaded_scores_the_same_bytes_again(run):
    again = score(run.workdir, report=False)
    assert again["categories"] == run.metrics["categories"]
    maps = run.maps(range(len(run.index)))
    lines = read_images(run.workdir / "scores")
    written = read_maps(run.workdir / "scores", run.category, len(lines))
    flat = maps[run.index.present()].astype(np.float16)
    np.testing.assert_array_equal(written, flat)
    assert np.isfinite(flat).all()
    assert maps.shape[2:] == map_shape(run.model.method)


def test_order_of_samples_and_batch_size_change_nothing(run):
    rows = list(range(len(run.index)))
    expected = run.maps(rows)
    np.testing.assert_allclose(run.maps(rows[::-1])[::-1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.maps(rows, most=1), expected, rtol=1e-5, atol=1e-6)


def test_where_memory_is_short_fewer_samples_are_scored_at_a_time(run, monkeypatch):
    scorer = run.scorer()
    assert scorer._within_memory(run.inputs) == 8
    monkeypatch.setattr(device_memory, "device_bytes", lambda: 1)
    assert scorer._within_memory(run.inputs) == 1


def test_the_maps_of_a_view_do_not_depend_on_the_others_unless_the_method_says_so(run):
    present = run.index.present()
    present[:, 1] = False
    full, without = run.maps(range(len(run.index))), run.maps(range(len(run.index)), present=present)
    assert np.isnan(without[:, 1]).all()
    assert np.isfinite(without[:, [0, 2]]).all()
    if not run.model.method.requires.joint_views:
        np.testing.assert_array_equal(without[:, [0, 2]], full[:, [0, 2]])


def test_eager_and_compiled_scores_are_the_same(run):
    scorer = run.scorer()
    with one_device():
        state = run.job.load(run.category, run.facts).state
        batch = scorer._batch(run.inputs, np.array([0, 1]), 2)
        batch = dataclasses.replace(batch, mesh=None)
        eager = run.model.method.score(state, batch)
        compiled = jax.jit(run.model.method.score)(state, batch)
    np.testing.assert_allclose(eager, compiled, rtol=2e-5, atol=1e-5)


@contextmanager
def one_device():
    """As if this process had one device."""
    mesh = Mesh(np.array(jax.devices()[:1]), (sharding.AXIS,), axis_types=(AxisType.Auto,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "mesh", lambda: mesh)
        patch.setattr(sharding, "local_mesh", lambda: mesh)
        yield


def test_one_device_and_four_score_the_same(run):
    rows = list(range(len(run.index)))
    four = run.maps(rows)
    with one_device():
        model = run.job.load(run.category, run.facts)
        one = run.maps(rows, scorer=run.scorer(model))
    np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-5)


def test_the_decision_is_calibrated_by_held_out_samples(run):
    lines = (run.workdir / "scores/samples.csv").read_text().splitlines()
    assert lines[0].endswith("p_value,decision,reason")
    assert {line.split(",")[6] for line in lines[1:]} <= {"pass", "fail"}
    assert run.metrics["categories"][run.category]["decision"]["held_out"] == 4


def test_the_inspector_says_what_the_scores_say_and_lives_with_a_missing_view(run):
    inspector = Inspector.load(run.workdir, warm=False)
    sample = run.index.samples[0]
    pictures = {view.name: run.index.root / view.image for view in sample.views}
    found = inspector.inspect(pictures, run.category)
    np.testing.assert_allclose(found.maps, run.maps([0])[0], rtol=1e-4, atol=1e-5)
    del pictures["top"]
    without = inspector.inspect(pictures, run.category)
    assert without.missing == ("top",)
    assert math.isfinite(without.score)


def test_an_artefact_scores_as_the_workdir_and_is_verified(run, tmp_path):
    export(run.workdir, tmp_path / "artefact", golden=1)
    problems, words = verify(tmp_path / "artefact")
    assert not problems
    assert "as exported" in words


def test_a_dry_run_tells_models_and_bytes(run):
    words, parts = plan_training(run.config, run.workdir)
    assert run.config.method in words
    size = (model_folder(run.workdir, run.category) / STATE).stat().st_size
    (models,) = [part for part in parts if part.what == "models"]
    assert 0.5 * size <= models.bytes <= 1.5 * size + 2**12
    words, parts = plan_scoring(run.workdir)
    assert f"model {run.category}" in words
    assert {part.what for part in parts} == {"features", "scores"}


def test_the_state_has_the_parameters_that_are_counted(run):
    leaves = named_leaves(run.model.state).values()
    counted = sum(np.size(leaf) for leaf in leaves if not hasattr(leaf, "rows"))
    assert counted == parameter_count(run.model.method)


def test_the_protocol_tells_how_a_patch_is_scored(run):
    told = run.metrics["protocol"]
    assert told["method"] == run.config.method
    assert told["patch_score"]


def test_a_training_that_is_stopped_goes_on_to_the_same_bytes(trained, tmp_path, monkeypatch):
    run = trained
    stops = iter([False, True])
    monkeypatch.setattr(Checkpoints, "stopping", lambda self: next(stops, False))
    with pytest.raises(Stopped):
        train(run.config, tmp_path / "run")
    train(run.config, tmp_path / "run")
    state = model_folder(tmp_path / "run", run.category) / STATE
    assert state.read_bytes() == (model_folder(run.workdir, run.category) / STATE).read_bytes()
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    numbers = [line["step"] for line in steps if line["stage"] == "training"]
    assert numbers == list(range(len(numbers)))


def test_a_loss_that_is_no_number_stops_with_the_samples_named(trained, tmp_path):
    run = trained
    broken = dataclasses.replace(run.config.train, learning_rate=1e30)
    with pytest.raises(UserError, match=r"step \d+ has loss .* on good/teil"):
        train(dataclasses.replace(run.config, train=broken), tmp_path / "run")


@pytest.mark.parametrize("method", METHODS.names())
def test_one_view_alone_works_or_is_refused_in_one_line(method, root, tmp_path):
    write_folders(tmp_path / "data", {"only": (".png", (40, 40))}, train=4, good=1, defective=1)
    config = dataclasses.replace(config_for(method, tmp_path / "data"), decision=DecisionConfig())
    if METHODS.load(method).debug().requires().min_views > 1:
        with pytest.raises(UserError, match="views"):
            train(config, tmp_path / "run")
        return
    train(config, tmp_path / "run")
    metrics = score(tmp_path / "run", report=False)
    assert math.isfinite(metrics["mean"]["image"]["auroc"])


@pytest.mark.parametrize("method", METHODS.names())
def test_a_config_of_the_method_says_what_it_is(method):
    assert config_of(method, data=DataConfig(root="x")).method == method
