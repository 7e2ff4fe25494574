"""JAX functions as ONNX models, by jax2onnx of the extra `onnx`: traced with plain operations (plain.py) first."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from mvead_jax.runtime.plain import traced_plainly


class NotConvertible(Exception):
    """A function that can't become an ONNX model, with the reason in one line."""


def onnx_model(
    function: Callable[..., Any],
    like: Sequence[jax.ShapeDtypeStruct],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Return a function of arrays of these shapes as an ONNX model; what it closes over lies in the model.

    Args:
      inputs, outputs: their names in the model, in order.

    Raises:
      NotConvertible: jax2onnx has no operation for what the function does, or the model would be beyond 2 GiB.
    """
    with _quiet(), traced_plainly(), _usual_types():
        from jax2onnx import to_onnx

        try:
            model = to_onnx(
                function, like, model_name="function", input_names=list(inputs), output_names=list(outputs)
            )
            return model.SerializeToString()
        except Exception as error:  # jax2onnx says in many ways what it has no operation for
            raise NotConvertible(str(error).partition("\n")[0] or type(error).__name__) from error


def onnx_session(model: bytes | str) -> Any:
    """Return a model, or the file of one, at work in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # shapes of broadcasts that it infers less exactly are no warning for users
    )
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what jax2onnx says of operations that are not used here out of the terminal."""
    own = logging.getLogger("jax2onnx")
    before = own.level
    own.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.setLevel(before)


@contextmanager
def _usual_types() -> Iterator[None]:
    """Give jax2onnx's own functions the rules of types that JAX has unless told otherwise."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
