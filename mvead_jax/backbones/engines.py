"""The forward pass of a backbone by another engine than XLA, on a CPU: ONNX Runtime or OpenVINO.

jax2onnx converts the network, once for each number of images in a call. Before what an engine gives is used, it must
agree with XLA on noise of the same shape.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.onnx_conversion import onnx_model, onnx_session

log = logging.getLogger(__name__)

_CONVERTER = "jax2onnx"
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}  # of the largest feature of a tap

Apply = Callable[[Float32[Array, "B H W 3"]], dict[str, Float32[Array, "B h w D"]]]
Start = Callable[[bytes, str], Callable[[np.ndarray], Sequence[np.ndarray]]]


@dataclass(frozen=True)
class Engine:
    """What runs an ONNX model.

    Attributes:
      package: of Python. extra: of ours, which installs it.
      precisions: of backbone.precision, that it computes in.
      start: gives a model, in a precision, as a function of images.
    """

    package: str
    extra: str
    precisions: tuple[str, ...]
    start: Start

    def __str__(self) -> str:
        own, converter = (importlib.metadata.version(name) for name in (self.package, _CONVERTER))
        return f"{self.package} {own} ({_CONVERTER} {converter})"


def engine_of(config: BackboneConfig) -> Engine:
    """Return the engine that `config.engine` names, which is not XLA.

    Raises:
      UserError: it is not installed, does not compute in the precision, or JAX runs on no CPU.
    """
    engine, said = ENGINES[config.engine], f"config backbone.engine={config.engine}"
    for package in (_CONVERTER, engine.package):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"{said}: needs {package}: pip install '.[{engine.extra}]' in the checkout"
            ) from None
    if config.precision not in engine.precisions:
        raise UserError(
            f"{said}: computes no {config.precision}; take backbone.precision={engine.precisions[0]}, or another engine"
        )
    if (backend := jax.default_backend()) != "cpu":
        raise UserError(
            f"{said}: computes on CPUs, and JAX runs on a {backend} here; set JAX_PLATFORMS=cpu, or take "
            "backbone.engine=xla"
        )
    return engine


def by_engine(
    engine: Engine, name: str, network: Callable, by_xla: Apply, taps: Sequence[str], precision: str
) -> Apply:
    """Return what gives a backbone's feature maps by an engine.

    Args:
      name: of the backbone.
      network: images -> {tap: map}, in float32: what is converted. The engine makes it another precision.
      by_xla: the same in `precision`, to compare with.

    Raises (the function that is returned, at the first call with a number of images):
      UserError: the network can't be converted, or the engine gives something else than XLA.
    """
    alone = threading.Lock()  # an engine takes all cores, and OpenVINO's model serves one caller

    @functools.cache
    def started(shape: tuple[int, ...]) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        begin = time.monotonic()
        log.info("backbone %s: %d images by %s: converting it", name, shape[0], engine)
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        try:
            model = onnx_model(
                lambda images: tuple(network(images)[tap] for tap in taps),
                [jax.ShapeDtypeStruct(shape, jnp.float32)],
                ("images",),
                taps,
            )
            run = engine.start(model, precision)
            found = dict(zip(taps, run(noise), strict=True))
        except UserError:
            raise
        except Exception as error:  # of jax2onnx or of the engine, which have no common class of errors
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"config backbone.engine={engine.package}: {name} can't be converted ({reason}); take "
                "backbone.engine=xla"
            ) from error
        apart = _apart(found, by_xla(noise))
        if not apart <= TOLERANCE[precision]:
            other = "" if precision == "float32" else "backbone.precision=float32 or "
            raise UserError(
                f"config backbone.engine={engine.package}: {engine} gives {precision} features of {name} that differ "
                f"from XLA's by {apart:.1e} of the largest, more than {TOLERANCE[precision]:g}; take {other}"
                "backbone.engine=xla"
            )
        log.info(
            "backbone %s: %d images by %s: within %.1e of XLA's largest feature, ready after %.0f s",
            *(name, shape[0], engine, apart, time.monotonic() - begin),
        )
        return run

    def apply(images: Float32[Array, "B H W 3"]) -> dict[str, Float32[Array, "B h w D"]]:
        given = np.ascontiguousarray(images, np.float32)
        with alone:
            found = started(given.shape)(given)
        return {tap: jnp.asarray(own) for tap, own in zip(taps, found, strict=True)}

    return apply


def _apart(found: Mapping[str, np.ndarray], wanted: Mapping[str, Array]) -> float:
    """Return the largest difference of any tap, relative to the largest feature that is wanted of it; or NaN."""
    shares = []
    for tap, own in wanted.items():
        expected = np.asarray(own)
        if found[tap].shape != expected.shape:
            return np.nan
        shares.append(np.abs(found[tap] - expected).max() / np.abs(expected).max())
    return float(np.max(shares))


def _onnx_runtime(model: bytes, precision: str) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    session = onnx_session(model)
    return lambda images: session.run(None, {"images": images})


def _openvino(model: bytes, precision: str) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    openvino = import_openvino()
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    )
    if (own := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != hint:
        raise UserError(
            f"config backbone.engine=openvino: computes in {own} on this CPU, which has no {precision}; take "
            "backbone.precision=float32"
        )
    outputs = range(len(compiled.outputs))

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled(images)
        return [found[number] for number in outputs]

    return run


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports each import to its makers by a forked process.

    Where the package of the telemetry is missing, OpenVINO takes a stub of its own.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    telemetry = "openvino_telemetry"
    sys.modules[telemetry] = None  # an import of it fails
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[telemetry]


ENGINES = {
    "onnxruntime": Engine("onnxruntime", "onnx", ("float32",), _onnx_runtime),
    "openvino": Engine("openvino", "openvino", ("float32", "bfloat16"), _openvino),
}
