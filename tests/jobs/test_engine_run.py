"""A whole run whose backbone another engine computes: the same scores to rounding, said in the protocol, shipped."""

import hashlib
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from fake_realiad import write_realiad

from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.config.io import to_dict
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.jobs.provenance import config_digest
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
    for package in ("jax2onnx", "onnxruntime", "openvino"):  # not imported here: OpenVINO's telemetry
        if find_spec(package) is None:
            pytest.skip(f"{package}: pip install '.[onnx,openvino]'")
    folder = tmp_path_factory.mktemp("engines")
    root = write_realiad(folder / "data", size=40, train=6, normal=3, defective=3, views=3)
    for engine in ENGINES:
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


def test_an_export_in_bfloat16_is_refused_before_anything_is_loaded(runs, tmp_path):
    copied = shutil.copytree(runs / "openvino", tmp_path / "half")
    config = json.loads((copied / "config.json").read_text())
    config["backbone"]["precision"] = "bfloat16"
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="engine=openvino in bfloat16, whose features an exported function"):
        export(copied, tmp_path / "artefact", golden=1)
    assert not (tmp_path / "artefact").exists()


def test_a_run_of_xla_is_the_run_that_it_was_before_there_was_another_engine():
    fields = to_dict(PatchCoreConfig())
    fields["backbone"].pop("engine")
    del fields["eval"], fields["decision"]["false_alarms"], fields["decision"]["threshold"]
    del fields["data"]["ignore"]
    before = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    assert config_digest(PatchCoreConfig()) == before
    other = PatchCoreConfig(backbone=BackboneConfig(engine="openvino"))
    assert config_digest(other) != before


def test_an_artefact_inspects_by_the_engine_and_verifies(runs):
    export(runs / "openvino", runs / "artefact", golden=1)
    assert verify(runs / "artefact")[0] == []
    inspector = Inspector.load(runs / "artefact")
    golden = json.loads((runs / "artefact/golden/expected.json").read_text())[0]
    found = inspector.inspect({view: runs / "artefact" / path for view, path in golden["pictures"].items()})
    np.testing.assert_allclose(found.score, golden["expected"]["score"], rtol=1e-5)
