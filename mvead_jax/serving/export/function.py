"""The scoring function of a category as jax.export keeps it: StableHLO for cpu, cuda and tpu in one file.

    exported/<category>.bin           the function (arguments, images, present) -> maps
    exported/<category>.json          where each argument lies, what goes in and what comes out
    exported/<category>.safetensors   arguments that lie in no other file: which patches attend to which

Weights and banks are arguments, read from the files that the artefact has anyway. The file is called with
JAX alone; docs/serving.md has the twenty lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float32
from safetensors import SafetensorError, safe_open

from mvead_jax.backbones.base import Backbone, as_function, build_network
from mvead_jax.features.cache import as_stored
from mvead_jax.backbones.stored import STORED
from mvead_jax.bank.fill import Bank
from mvead_jax.config.schema import Config
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, whole, write_json, write_tensors
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.mvead.banded import BandPlan
from mvead_jax.scoring.model_store import assembled, build_method, fusion_of, read_calibration
from mvead_jax.scoring.scorer import with_evidence
from mvead_jax.jobs.workdir import WEIGHTS

FOLDER = "exported"
PLATFORMS = ("cpu", "cuda", "tpu")

Arguments = Mapping[str, Any]  # arrays by name
Function = Callable[[Arguments, Float32[Array, "V S S 3"], Bool[Array, " V"]], Float32[Array, "V h w"]]


def export_function(
    artefact: Path,
    config: Config,
    backbone: Backbone,
    name: str,
    category: str,
    views: tuple,
    keys: EpipolarKeys,
) -> None:
    """Writes the function of a category beside the files that an artefact has already.

    Args:
      name: of the model. views: that it was trained with. keys: of the category.
    """
    folder = artefact / FOLDER
    method = build_method(config, views, backbone, name=name)
    planned = method.plan(keys)
    own: dict[str, np.ndarray] = {}
    if isinstance(planned, BandPlan):
        own |= {f"plan.{field}": np.asarray(value) for field, value in vars(planned).items()}
    elif planned is not None:
        own["plan.mask"] = np.asarray(planned)
    if config.score.evidence != "none":
        own["evidence.mask"] = np.asarray(keys.mask)
    files = {f"backbone.{one}": (f"{WEIGHTS}/{STORED}", one) for one in _tensors(artefact / WEIGHTS / STORED)}
    for path in sorted((artefact / "banks" / name).glob("*.safetensors")):
        files[f"bank.{path.stem}"] = (f"banks/{name}/{path.name}", "bank")
    if (fusion := artefact / "models" / name / "fusion.safetensors").exists():
        files |= {f"fusion.{one}": (f"models/{name}/{fusion.name}", one) for one in _tensors(fusion)}
    if own:
        write_tensors(folder / f"{category}.safetensors", own)
        files |= {one: (f"{FOLDER}/{category}.safetensors", one) for one in own}

    calling = {
        "arguments": {one: {"file": file, "tensor": tensor} for one, (file, tensor) in sorted(files.items())},
        "images": {
            "shape": [len(views), backbone.image_size, backbone.image_size, 3],
            "dtype": "float32",
            "views": list(views),
            "preprocessing": "upright RGB picture, resized without cropping by Pillow's BICUBIC, then "
            "(level / 255 - mean) / std of each channel; anything for a missing view",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        },
        "present": {"shape": [len(views)], "dtype": "bool"},
        "maps": {"shape": [len(views), *backbone.grid], "dtype": "float32", "missing": "NaN"},
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    write_json(folder / f"{category}.json", calling)
    arguments = {
        one: jax.ShapeDtypeStruct(a.shape, a.dtype) for one, a in read_arguments(artefact, calling).items()
    }
    function = scoring_function(
        config, backbone, method, artefact / "models" / name, isinstance(planned, BandPlan)
    )
    images = jax.ShapeDtypeStruct(calling["images"]["shape"], jnp.float32)
    present = jax.ShapeDtypeStruct((len(views),), jnp.bool_)
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(arguments, images, present)
    with whole(folder / f"{category}.bin") as temporary:
        temporary.write_bytes(exported.serialize())


def scoring_function(config: Config, backbone: Backbone, method: Any, folder: Path, banded: bool) -> Function:
    """What Inspector computes between preprocessing and the maps, of one sample, as a pure function.

    Args:
      folder: of the model, for its calibration. banded: the keys come as a BandPlan.
    """
    forward, state = as_function(build_network(config.backbone, config.seed)[0], config.backbone.block)
    parameters = nnx.to_flat_state(state)
    calibration, scales = read_calibration(folder / "calibration.json", method)

    def score(arguments, images, present):
        own = {prefix: {} for prefix in ("backbone", "bank", "fusion", "plan", "evidence")}
        for name, value in arguments.items():
            prefix, _, rest = name.partition(".")
            own[prefix][rest] = value
        leaves = [(at, leaf.replace(own["backbone"][".".join(map(str, at))])) for at, leaf in parameters]
        features = as_stored(forward(nnx.from_flat_state(leaves), images), config.features.dtype)
        features = jnp.where(present[:, None, None], features, 0)
        fusion = fusion_of(method, own["fusion"]) if own["fusion"] else None
        banks = {name: Bank(rows) for name, rows in own["bank"].items()}
        plan = BandPlan(**own["plan"]) if banded else own["plan"].get("mask")
        maps = method.anomaly_maps(assembled(method, banks, fusion, scales), features[None], plan)[0]
        if config.score.evidence != "none":
            maps = with_evidence(maps, present, own["evidence"]["mask"], calibration, config.score)
        return jnp.where(present[:, None, None], maps, jnp.nan)

    return score


def load_exported(artefact: Path, category: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The exported function with its arguments: (images, present) -> maps.

    Raises:
      UserError: missing, or not what export.py wrote.
    """
    path = artefact / FOLDER / f"{category}.bin"
    calling = read_json(path.with_suffix(".json"), "the calling convention of an exported function")
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        arguments = jax.device_put(read_arguments(artefact, calling))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: not a function of scripts/export.py ({error})") from error
    call = jax.jit(exported.call)
    return lambda images, present: np.asarray(call(arguments, images, present))


def read_arguments(artefact: Path, calling: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that a calling convention names."""
    found = {}
    for name, place in calling["arguments"].items():
        with safe_open(artefact / place["file"], framework="numpy") as file:
            found[name] = file.get_tensor(place["tensor"])
    return found


def _tensors(path: Path) -> list[str]:
    """Names of the tensors of a file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sorted(header.keys() - {"__metadata__"})
