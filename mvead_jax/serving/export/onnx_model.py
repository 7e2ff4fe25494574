"""The scoring function of a category as an ONNX model: exported/<category>.onnx, (images, present) -> maps.

The function is converted by runtime/onnx_conversion.py; weights and the state of the model lie in the file. Names of
inputs and outputs are those of the calling convention (function.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, whole
from mvead_jax.runtime.onnx_conversion import NotConvertible, onnx_model, onnx_session
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
    try:
        model = onnx_model(
            lambda images, present: function(arguments, images, present),
            like,
            ("images", "present"),
            calling["returns"],
        )
    except NotConvertible as error:
        raise UserError(f"--onnx: {category} can't be converted ({error}); export without --onnx") from error
    with whole(artefact / FOLDER / f"{category}.onnx") as temporary:
        temporary.write_bytes(model)
        try:
            onnx_session(str(temporary))
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
        session = onnx_session(str(path))
    except Exception as error:  # onnxruntime has no common class of errors
        raise UserError(f"{path}: not a model of scripts/export.py ({str(error).splitlines()[0]})") from error
    names = [one.name for one in session.get_outputs()]

    def run(images: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {"images": images, "present": present}), strict=True))

    return run
