"""The scoring function as an ONNX model, run by onnxruntime on the golden samples."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from fake_realiad import write_cameras, write_realiad
from safetensors.numpy import load_file

from mvead_jax.backbones.engines import import_openvino
from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.nearest import k_nearest
from mvead_jax.config.io import config_of
from mvead_jax.config.schema import BackboneConfig, DataConfig, GeometryConfig
from mvead_jax.jobs.train import train
from mvead_jax.methods.mvead.config import FusionConfig, PretrainConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.plain import is_plain, traced_plainly
from mvead_jax.serving.export import onnx_model
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.export.checksums import seal
from mvead_jax.serving.inspector import Inspector

KINDS = {
    "patchcore": {"bank": BankConfig(kind="coreset", share=0.5)},
    "patchcore on DINOv2": {
        "backbone": BackboneConfig(name="dinov2-small", block=2, weights="random", batch_size=5),
        "bank": BankConfig(kind="coreset", share=0.5),
    },
    "mvead": {
        "train": PretrainConfig(epochs=1, centers=2),
        "fusion": FusionConfig(heads=2),
        "geometry": GeometryConfig(cameras="cameras.json"),
        "score": BankScoreConfig(evidence="epipolar", image_evidence="all"),
    },
}
SIZES = {"patchcore on DINOv2": 70}
EXTRA = "the extra onnx: pip install '.[onnx]'"


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    root = write_realiad(tmp_path_factory.mktemp("data"), size=40, train=6)
    write_cameras(root, 40, bolt=range(5))
    sections = {"backbone": BackboneConfig(name="efficientnet-lite0", batch_size=5)} | KINDS[request.param]
    size = SIZES.get(request.param, 96)
    data = DataConfig(root=str(root), image_size=size, categories=("bolt",))
    folder = tmp_path_factory.mktemp("onnx") / "run"
    train(config_of(request.param.split()[0], data=data, **sections), folder)
    return folder


@pytest.fixture(scope="module")
def artefact(run):
    pytest.importorskip("jax2onnx", reason=EXTRA)
    pytest.importorskip("onnxruntime", reason=EXTRA)
    export(run, run.parent / "artefact", golden=1, onnx=True)
    return run.parent / "artefact"


def golden(artefact):
    """Yield the inputs of each golden sample, with one view missing too, and its maps."""
    inspector = Inspector.load(artefact)
    expected = load_file(artefact / "golden/maps.safetensors")
    lines = json.loads((artefact / "golden/expected.json").read_text())
    assert [line["expected"]["missing"] for line in lines] == [[], ["C5"]]
    for number, line in enumerate(lines):
        given = {view: artefact / path for view, path in line["pictures"].items()}
        images, present, _ = inspector.preprocess(given)
        yield images, present, expected[str(number)]


def test_onnxruntime_scores_golden_samples_as_the_inspector_does_and_verify_runs_it(artefact, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason=EXTRA)
    session = runtime.InferenceSession(artefact / "exported/bolt.onnx", providers=["CPUExecutionProvider"])
    for images, present, wanted in golden(artefact):
        found = session.run(["maps"], {"images": images, "present": present})[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.nanmax(np.abs(wanted)))
    assert verify(artefact)[0] == []
    copied = shutil.copytree(artefact, tmp_path / "changed")
    model = (copied / "exported/bolt.onnx").read_bytes()
    (copied / "exported/bolt.onnx").write_bytes(model[: len(model) // 2])
    seal(copied)
    with pytest.raises(UserError, match=r"bolt\.onnx: not a model of scripts/export\.py"):
        verify(copied)


def test_openvino_scores_golden_samples_as_the_inspector_does(artefact):
    if find_spec("openvino") is None:
        pytest.skip("the extra openvino: pip install '.[openvino]'")
    openvino = import_openvino()
    # Its CPU plugin may take bfloat16 or float16 where the processor has them, unless it is told what to compute with.
    model = openvino.Core().compile_model(
        artefact / "exported/bolt.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for images, present, wanted in golden(artefact):
        found = model({"images": images, "present": present})["maps"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.nanmax(np.abs(wanted)))


def test_what_cannot_be_converted_is_said_by_name_and_nothing_is_written(run, tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx", reason="the extra onnx: pip install '.[onnx]'")
    monkeypatch.setattr(onnx_model, "_MOST_BYTES", 1000)
    with pytest.raises(
        UserError, match=r"--onnx: bolt: weights and banks have \d+ bytes, the most of them \S+ \["
    ):
        export(run, tmp_path / "artefact", golden=1, onnx=True)
    assert not (tmp_path / "artefact").exists()


def test_without_the_extra_the_option_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--onnx needs jax2onnx: pip install '\.\[onnx\]' in the checkout"):
        onnx_model.check_onnx()


@pytest.mark.parametrize(("k", "masked"), [(1, False), (3, False), (1, True)])
def test_plain_operations_find_the_rows_of_the_exact_search(k, masked):
    rng = np.random.default_rng(0)
    bank = (rng.normal(size=(40, 8)) + 100).astype(np.float32)
    queries = np.concatenate([bank[:3], bank[5:20] + rng.normal(0, 0.1, (15, 8)).astype(np.float32)])
    where = rng.random(40) < 0.3 if masked else None
    distance, index, _ = k_nearest(queries, bank, k, where=where)
    with traced_plainly():
        assert is_plain()
        plain_distance, plain_index, _ = k_nearest(queries, bank, k, where=where)
    assert not is_plain()
    np.testing.assert_array_equal(plain_index, index)
    np.testing.assert_allclose(plain_distance, distance, rtol=1e-6, atol=0)
