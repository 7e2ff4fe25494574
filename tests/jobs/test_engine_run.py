"""A whole run whose backbone another engine computes: the same scores to rounding, said in the protocol, shipped."""

import json

import numpy as np
import pytest
from fake_realiad import write_realiad

from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.inspector import Inspector

ENGINES = ("xla", "openvino", "onnxruntime")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of the same data by engine, trained and scored, with one cache of features."""
    pytest.importorskip("jax2onnx", reason="the extra onnx: pip install '.[onnx]'")
    folder = tmp_path_factory.mktemp("engines")
    root = write_realiad(folder / "data", size=40, train=6, normal=3, defective=3, views=3)
    for engine in ENGINES:
        if engine != "xla":
            pytest.importorskip(engine, reason=f"the extra of {engine}")
        config = PatchCoreConfig(
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=5, engine=engine),
            data=DataConfig(root=str(root), image_size=64, categories=("bolt",)),
        )
        train(config, folder / engine)
        score(folder / engine)
    return folder


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_scores_are_those_of_xla_to_rounding_and_the_runs_are_told_apart(runs, engine):
    found = compare(read_run(runs / "xla"), read_run(runs / engine), Tolerances())
    (scores,) = found["scores"].values()
    assert 0 < scores["relative_largest"] < 1e-4
    assert f"not the same experiment: config backbone.engine: 'xla' and '{engine}'" in found["problems"]
    assert all(line.startswith("not the same experiment") for line in found["problems"])


def test_the_protocol_tells_the_engine_and_its_version(runs):
    told = {
        engine: json.loads((runs / engine / "scores/metrics.json").read_text())["protocol"]["precision"]
        for engine in ENGINES
    }
    assert told["xla"] == "float32 computed, float32 stored"
    for engine in ENGINES[1:]:
        assert told[engine].startswith(f"float32 computed by {engine} ")
        assert told[engine].endswith(", float32 stored")


def test_features_of_one_engine_are_not_read_for_another(runs):
    read = {
        engine: json.loads(next((runs / engine).glob("models/*/facts.json")).read_text())["features"]
        for engine in ENGINES
    }
    assert len(set(read.values())) == len(ENGINES)


def test_a_model_of_one_engine_is_not_scored_by_another(runs):
    with pytest.raises(UserError, match="backbone.engine"):
        score(runs / "xla", runs / "elsewhere", overrides={"backbone.engine": "openvino"})


def test_an_artefact_inspects_by_the_engine_and_verifies(runs):
    export(runs / "openvino", runs / "artefact", golden=1)
    assert verify(runs / "artefact")[0] == []
    inspector = Inspector.load(runs / "artefact")
    golden = json.loads((runs / "artefact/golden/expected.json").read_text())[0]
    found = inspector.inspect({view: runs / "artefact" / path for view, path in golden["pictures"].items()})
    np.testing.assert_allclose(found.score, golden["expected"]["score"], rtol=1e-5)
