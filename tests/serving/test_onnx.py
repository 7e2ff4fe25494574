"""The scoring function as an ONNX model, run by onnxruntime on the golden samples."""

import json
import shutil

import numpy as np
import pytest
from fake_realiad import write_cameras, write_realiad
from safetensors.numpy import load_file

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.nearest import k_nearest
from mvead_jax.config.io import config_of
from mvead_jax.config.schema import BackboneConfig, DataConfig, GeometryConfig
from mvead_jax.jobs.train import train
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.plain import is_plain, traced_plainly
from mvead_jax.serving.export import onnx_model
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.export.checksums import seal
from mvead_jax.serving.inspector import Inspector

KINDS = {
    "patchcore": {"bank": BankConfig(kind="coreset", share=0.5)},
    "mvead": {
        "train": PretrainConfig(epochs=1, centers=2),
        "geometry": GeometryConfig(cameras="cameras.json"),
        "score": BankScoreConfig(evidence="epipolar", image_evidence="all"),
    },
}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    root = write_realiad(tmp_path_factory.mktemp("data"), size=40, train=6)
    write_cameras(root, 40, bolt=range(5))
    config = config_of(
        request.param,
        data=DataConfig(root=str(root), image_size=96, categories=("bolt",)),
        backbone=BackboneConfig(name="efficientnet-lite0", batch_size=5),
        **KINDS[request.param],
    )
    folder = tmp_path_factory.mktemp(request.param) / "run"
    train(config, folder)
    return folder


def test_the_model_scores_golden_samples_as_the_inspector_does_and_verify_runs_it(run, tmp_path):
    pytest.importorskip("jax2onnx", reason="the extra onnx: pip install '.[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx: pip install '.[onnx]'")
    artefact = tmp_path / "artefact"
    if "mvead" in run.parent.name:  # jax2onnx makes a loop of double numbers of its evidence
        with pytest.raises(UserError, match=r"--onnx: bolt can't be converted \(onnxruntime: .*Loop"):
            export(run, artefact, golden=1, onnx=True)
        assert not artefact.exists()
        return
    export(run, artefact, golden=1, onnx=True)
    session = runtime.InferenceSession(artefact / "exported/bolt.onnx", providers=["CPUExecutionProvider"])
    inspector = Inspector.load(artefact, warm=False)
    expected = load_file(artefact / "golden/maps.safetensors")
    lines = json.loads((artefact / "golden/expected.json").read_text())
    assert [line["expected"]["missing"] for line in lines] == [[], ["C5"]]
    for number, line in enumerate(lines):
        given = {view: artefact / path for view, path in line["pictures"].items()}
        images, present, _ = inspector.preprocess(given)
        found = session.run(["maps"], {"images": images, "present": present})[0]
        wanted = expected[str(number)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.nanmax(wanted))
    assert verify(artefact)[0] == []
    copied = shutil.copytree(artefact, tmp_path / "changed")
    model = (copied / "exported/bolt.onnx").read_bytes()
    (copied / "exported/bolt.onnx").write_bytes(model[: len(model) // 2])
    seal(copied)
    with pytest.raises(UserError, match=r"bolt\.onnx: not a model of scripts/export\.py"):
        verify(copied)


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
    with pytest.raises(UserError, match=r"--onnx needs jax2onnx: pip install 'mvead_jax\[onnx\]'"):
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
