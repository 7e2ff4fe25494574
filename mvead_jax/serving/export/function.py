"""The scoring function of a category as jax.export keeps it: StableHLO for cpu, cuda and tpu in one file.

    exported/<category>.bin           the function (arguments, images, present) -> maps
    exported/<category>.json          where each argument lies, what goes in and what comes out
    exported/<category>.safetensors   arguments that lie in no other file: what the method planned of the geometry

Weights and the state of the model are arguments, read from the files that the artefact has anyway. The file is
called with JAX alone; docs/serving.md has the twenty lines.
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

from mvead_jax.backbones.base import as_function
from mvead_jax.backbones.info import Loaded
from mvead_jax.backbones.stored import STORED
from mvead_jax.bank.fill import Bank
from mvead_jax.config.schema import Config
from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import ignored_patches, read_stored
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD
from mvead_jax.features.cache import as_stored
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.provenance import image_score_words
from mvead_jax.jobs.workdir import WEIGHTS, model_folder
from mvead_jax.methods.base import Batch, Method, PlansGeometry, map_shape
from mvead_jax.postprocess.evidence import image_scores, with_evidence
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.postprocess.statistics import ScoreStatistics
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, whole, write_json, write_tensors
from mvead_jax.scoring.model_store import STATE, named_leaves, with_leaves
from mvead_jax.scoring.uncounted import Uncounted, evidence_without, without_uncounted

FOLDER = "exported"
PLATFORMS = ("cpu", "cuda", "tpu")

Arguments = Mapping[str, Any]  # arrays by name
# (arguments, images, present) -> maps [V,h,w]; and scores of images [V], with score.image_evidence
Function = Callable[[Arguments, Float32[Array, "V S S 3"], Bool[Array, " V"]], Any]


def export_function(
    artefact: Path, config: Config, network: Loaded, method: Method, category: str, keys: EpipolarKeys
) -> Function:
    """Write the function of a category beside the files that an artefact has already, and return it.

    Args:
      network: the backbone. method: of the model, whose spec has its name. keys: of the category.
    """
    folder, name, spec = artefact / FOLDER, method.spec.name, method.spec
    planned = method.plan(keys) if isinstance(method, PlansGeometry) else None
    leaves, form = jax.tree.flatten(planned)
    own = {f"geometry.{number}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
    score = config.score
    masks = read_stored(model_folder(artefact, name) / IGNORED).get(category, {})
    uncounted = ignored_patches(masks, spec.views, map_shape(method), category) if masks else None
    if score.evidence != "none" or score.image_evidence != "none":
        mask = keys.mask if uncounted is None else evidence_without(keys.mask, uncounted, keys.grid)
        own["evidence.mask"] = np.asarray(mask)
    files = {}
    weights, state = artefact / WEIGHTS / STORED, model_folder(artefact, name) / STATE
    for prefix, path in (("backbone", weights), ("state", state)):
        place = path.relative_to(artefact).as_posix()
        # Whose a bank's row is matters in training only.
        files |= {f"{prefix}.{one}": (place, one) for one in _tensors(path) if not one.endswith("/sample")}
    if own:
        write_tensors(folder / f"{category}.safetensors", own)
        files |= {one: (f"{FOLDER}/{category}.safetensors", one) for one in own}

    views, size = len(spec.views), spec.image_size
    calling = {
        "arguments": {one: {"file": file, "tensor": tensor} for one, (file, tensor) in sorted(files.items())},
        "images": {
            "shape": [views, size, size, 3],
            "dtype": "float32",
            "views": list(spec.views),
            "preprocessing": "upright RGB image, resized without cropping by Pillow's BICUBIC, then "
            "(level / 255 - mean) / std of each channel; anything for a missing view",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        },
        "present": {"shape": [views], "dtype": "bool"},
        "returns": ["maps"] if score.image_evidence == "none" else ["maps", "image_scores"],
        "image_scores": image_score_words(config, method),
        "maps": {"shape": [views, *map_shape(method)], "dtype": "float32", "missing": "NaN"},
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    write_json(folder / f"{category}.json", calling)
    arguments = {
        one: jax.ShapeDtypeStruct(a.shape, a.dtype) for one, a in read_arguments(artefact, calling).items()
    }
    statistics = ScoreStatistics.read(model_folder(artefact, name) / STATISTICS, spec.views)
    function = scoring_function(config, network, method, category, statistics, form, keys.grid, uncounted)
    images = jax.ShapeDtypeStruct(calling["images"]["shape"], jnp.float32)
    present = jax.ShapeDtypeStruct((views,), jnp.bool_)
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(arguments, images, present)
    with whole(folder / f"{category}.bin") as temporary:
        temporary.write_bytes(exported.serialize())
    return function


def scoring_function(
    config: Config,
    network: Loaded,
    method: Method,
    category: str,
    statistics: ScoreStatistics,
    form: jax.tree_util.PyTreeDef,
    grid: tuple[int, int],
    uncounted: Uncounted | None = None,
) -> Function:
    """Return what Inspector computes between preprocessing and the maps, of one sample, as a pure function.

    Args:
      form: of what the method planned of the category's geometry. grid: of its keys.
      uncounted: patches that never count, in the shape of the maps; None: all do.
    """
    forward, state = as_function(network.network, tuple(method.spec.maps))
    parameters = nnx.to_flat_state(state)
    like = jax.eval_shape(method.init, jax.random.key(0))
    number = method.spec.categories.index(category)

    def score(arguments, images, present):
        own = {prefix: {} for prefix in ("backbone", "state", "geometry", "evidence")}
        for name, value in arguments.items():
            prefix, _, rest = name.partition(".")
            own[prefix][rest] = value
        weights = [(at, leaf.replace(own["backbone"][".".join(map(str, at))])) for at, leaf in parameters]
        maps = forward(nnx.from_flat_state(weights), images)
        has = present[:, None, None, None]
        features = {
            tap: jnp.where(has, as_stored(value, config.features.dtype), 0)[None]
            for tap, value in maps.items()
        }
        batch = Batch(
            features,
            present[None],
            jnp.full(1, number, jnp.int32),
            jax.tree.unflatten(form, [own["geometry"][str(at)] for at in range(form.num_leaves)]),
            jnp.where(has, images, 0)[None] if method.requires.images else None,
        )
        raw = found = method.score(_state(like, own["state"]), batch)[0]
        if uncounted is not None:
            raw = jnp.where(jnp.asarray(uncounted), -jnp.inf, found)
        others = present, own["evidence"].get("mask"), grid, statistics, config.score
        if config.score.evidence != "none":
            found = with_evidence(raw, *others)
        if uncounted is not None:
            found = without_uncounted(found[None], uncounted)[0]
        found = jnp.where(present[:, None, None], found, jnp.nan)
        if config.score.image_evidence == "none":
            return found
        return found, jnp.where(present, image_scores(raw, *others), jnp.nan)

    return score


def _state(like: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The state of a method from the tensors of its file."""
    leaves = {
        name: Bank(tensors[f"{name}/rows"]) if isinstance(leaf, Bank) else tensors[name]
        for name, leaf in named_leaves(like).items()
    }
    return with_leaves(like, leaves)


def load_exported(artefact: Path, category: str) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Return the exported function with its arguments: (images, present) -> "maps", or what else it returns.

    Raises:
      UserError: missing, or not what export.py wrote.
    """
    path = artefact / FOLDER / f"{category}.bin"
    calling = read_json(path.with_suffix(".json"), "the calling convention of an exported function")
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        arguments = jax.device_put(read_arguments(artefact, calling))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: not a function of mvead export ({error})") from error
    call, names = jax.jit(exported.call), calling["returns"]

    def run(images: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
        found = call(arguments, images, present)
        return dict(zip(names, map(np.asarray, found if len(names) > 1 else (found,)), strict=True))

    return run


def read_arguments(artefact: Path, calling: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays that a calling convention names."""
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
