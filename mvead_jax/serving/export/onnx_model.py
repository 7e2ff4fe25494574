"""The scoring function of a category as an ONNX model: exported/<category>.onnx, (images, present) -> maps.

The function is traced with plain operations (runtime/plain.py) and converted by jax2onnx; weights and the state of
the model lie in the file. Names of inputs and outputs are those of the calling convention (function.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, whole
from mvead_jax.runtime.plain import traced_plainly
from mvead_jax.serving.export.function import FOLDER, Function, read_arguments

log = logging.getLogger(__name__)

ONNX_TOLERANCE = 1e-4  # of the largest score of a sample
_MOST_BYTES = 2**31 - 2**24  # of the arrays: a file of protocol buffers ends at 2 GiB


def check_onnx() -> None:
    """Raise a UserError unless the extra `onnx` is installed."""
    for package in ("jax2onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(f"--onnx needs {package}: pip install '.[onnx]' in the checkout")


def write_onnx(artefact: Path, category: str, function: Function) -> None:
    """Write the model of a category whose function has been exported.

    Raises:
      UserError: it can't be converted, with what in it can't be.
    """
    calling = read_json(
        artefact / FOLDER / f"{category}.json", "the calling convention of an exported function"
    )
    arguments = read_arguments(artefact, calling)
    if (size := sum(one.nbytes for one in arguments.values())) > _MOST_BYTES:
        largest = max(arguments, key=lambda name: arguments[name].nbytes)
        raise UserError(
            f"--onnx: {category}: weights and banks have {size} bytes, the most of them {largest} "
            f"{list(arguments[largest].shape)}, and a model holds {_MOST_BYTES}; train with bank.kind=coreset and a "
            "smaller bank.share, or export without --onnx"
        )
    like = [
        jax.ShapeDtypeStruct(calling["images"]["shape"], jnp.float32),
        jax.ShapeDtypeStruct(calling["present"]["shape"], jnp.bool_),
    ]
    with _quiet(), traced_plainly(), _usual_types():
        from jax2onnx import to_onnx

        try:
            model = to_onnx(
                lambda images, present: function(arguments, images, present),
                like,
                model_name="anomaly_maps",
                input_names=["images", "present"],
                output_names=calling["returns"],
            )
        except Exception as error:  # jax2onnx says in many ways what it has no operation for
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"--onnx: {category} can't be converted ({reason}); export without --onnx"
            ) from error
    with whole(artefact / FOLDER / f"{category}.onnx") as temporary:
        temporary.write_bytes(model.SerializeToString())
        try:
            _session(temporary)
        except Exception as error:  # jax2onnx converts some operations into what no runtime takes
            raise UserError(
                f"--onnx: {category} can't be converted (onnxruntime: {str(error).splitlines()[0]}); export "
                "without --onnx"
            ) from error


def load_onnx(
    artefact: Path, category: str
) -> Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]] | None:
    """Return the ONNX model of a category as a function of (images, present); None where the artefact has none,
    or where onnxruntime is not installed, which is said.

    Raises:
      UserError: not a model of export.py.
    """
    path = artefact / FOLDER / f"{category}.onnx"
    if not path.exists():
        return None
    if find_spec("onnxruntime") is None:
        log.warning(
            "%s: not run, for onnxruntime is not installed (pip install '.[onnx]' in the checkout)", path
        )
        return None
    try:
        session = _session(path)
    except Exception as error:  # onnxruntime has no common class of errors
        raise UserError(f"{path}: not a model of scripts/export.py ({str(error).splitlines()[0]})") from error
    names = [one.name for one in session.get_outputs()]

    def run(images: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {"images": images, "present": present}), strict=True))

    return run


def _session(path: Path) -> Any:
    """Return a model at work in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # shapes of broadcasts that it infers less exactly are no warning for users
    )
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


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
