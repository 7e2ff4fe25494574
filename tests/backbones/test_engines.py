"""Other engines than XLA give a backbone's features too, are told apart from it, and are refused where they do not."""

import dataclasses
import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.backbones import engines
from mvead_jax.backbones.base import load_backbone
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.onnx_conversion import NotConvertible

DINO = BackboneConfig(name="dinov2-small", weights="random", block=2)
LITE0 = BackboneConfig(name="efficientnet-lite0")
RESNET = BackboneConfig(name="resnet18", weights="random")
TINY = DinoV2Config(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=14, mlp_ratio=2
)
BFLOAT16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", TINY)


@pytest.fixture(params=engines.ENGINES)
def engine(request):
    needs("jax2onnx", request.param)
    return request.param


def needs(*packages):
    for package in packages:  # not imported here: OpenVINO's telemetry
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package}: pip install '.[onnx,openvino]'")


def images(size, count=2, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("config", "size", "taps"),
    [(DINO, 56, ("patches",)), (LITE0, 64, ("pyramid", "patches")), (RESNET, 32, ("pyramid", "patches"))],
)
def test_an_engine_gives_the_features_of_xla_and_the_same_bytes_again(engine, config, size, taps):
    by_xla = load_backbone(config, size, taps)
    other = load_backbone(dataclasses.replace(config, engine=engine), size, taps)
    for count in (2, 3) if config is DINO else (2,):  # each is converted anew
        expected, found = by_xla(images(size, count)), other(images(size, count))
        assert list(found) == list(other.taps)
        for tap, own in expected.items():
            assert found[tap].shape == own.shape
            np.testing.assert_allclose(found[tap], own, rtol=0, atol=1e-5 * float(jnp.abs(own).max()))
        again = other(images(size, count))
        assert all(np.array_equal(again[tap], found[tap]) for tap in found)


def test_the_digest_and_the_words_tell_the_engine_and_its_version(engine, monkeypatch):
    first = load_backbone(LITE0, 64, ("patches",))
    other = load_backbone(dataclasses.replace(LITE0, engine=engine), 64, ("patches",))
    assert first.engine == "XLA"
    assert other.engine.startswith(f"{engine} 2" if engine == "openvino" else f"{engine} 1")
    assert first.digest != other.digest
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda package: "0.0")
    newer = load_backbone(dataclasses.replace(LITE0, engine=engine), 64, ("patches",))
    assert newer.digest not in (first.digest, other.digest)
    assert first.images_at_a_time(0) == other.images_at_a_time(0)


@pytest.mark.skipif(not BFLOAT16, reason="this CPU has no instructions for bfloat16")
def test_openvino_in_bfloat16_is_near_xla_in_bfloat16():
    needs("openvino")
    config = dataclasses.replace(DINO, precision="bfloat16", engine="openvino")
    found = load_backbone(config, 56, ("patches",))(images(56))["patches"]
    full = load_backbone(DINO, 56, ("patches",))(images(56))["patches"]
    apart = float(jnp.abs(found - full).max() / jnp.abs(full).max())
    assert 1e-4 < apart < 0.03  # rounded, and not by more


def test_an_engine_that_computes_something_else_is_refused(engine, monkeypatch):
    true = engines.ENGINES[engine]

    def start(model, precision):
        run = true.start(model, precision)
        return lambda given: [1.001 * own for own in run(given)]

    monkeypatch.setitem(engines.ENGINES, engine, dataclasses.replace(true, start=start))
    backbone = load_backbone(dataclasses.replace(LITE0, engine=engine), 64, ("patches",))
    with pytest.raises(
        UserError, match=r"differ from XLA's by 1\.0e-03 of the largest, more than 0\.0001; take"
    ):
        backbone(images(64))


@pytest.mark.parametrize("wrong", [np.full((1, 2), np.nan), np.ones((1, 1))])
def test_no_number_and_another_shape_in_any_map_are_no_agreement(wrong):
    right = np.ones((1, 2))
    assert engines._apart({"a": right, "b": right}, {"a": right, "b": right}) == 0
    assert np.isnan(engines._apart({"a": right, "b": wrong}, {"a": right, "b": right}))


def test_a_network_that_cannot_be_converted_is_one_line(engine, monkeypatch):
    def refuse(*given):
        raise NotConvertible("no operation for sort")

    monkeypatch.setattr(engines, "onnx_model", refuse)
    backbone = load_backbone(dataclasses.replace(LITE0, engine=engine), 64, ("patches",))
    with pytest.raises(
        UserError, match=r"lite0 can't be converted \(no operation for sort\); take backbone.engine=xla"
    ):
        backbone(images(64))


@pytest.mark.parametrize(
    ("changed", "missing", "backend", "message"),
    [
        (
            {"engine": "onnxruntime", "precision": "bfloat16"},
            "",
            "cpu",
            "onnxruntime: computes no bfloat16; take",
        ),
        (
            {"engine": "openvino"},
            "openvino",
            "cpu",
            r"openvino: needs openvino: pip install '\.\[openvino\]'",
        ),
        (
            {"engine": "onnxruntime"},
            "jax2onnx",
            "cpu",
            r"onnxruntime: needs jax2onnx: pip install '\.\[onnx\]'",
        ),
        ({"engine": "openvino"}, "", "gpu", "openvino: computes on CPUs, and JAX runs on a gpu here"),
    ],
)
def test_what_an_engine_cannot_do_is_said_before_anything_is_loaded(
    changed, missing, backend, message, monkeypatch
):
    def version(package):
        if package == missing:
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(engines.importlib.metadata, "version", version)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(UserError, match=f"config backbone.engine={message}") as error:
        load_backbone(dataclasses.replace(LITE0, **changed), 64, ("patches",))
    assert "\n" not in str(error.value)


def test_openvino_is_imported_without_its_telemetry():
    needs("openvino")
    program = """
import os, sys
from mvead_jax.backbones.engines import import_openvino
os.fork = None  # by which the telemetry would send
assert import_openvino().Core().available_devices
assert "openvino_telemetry" not in sys.modules
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
