"""A model as the jobs hold it: the method that a config names, and what it learned, in a workdir.

banks/<model>/C<v>.safetensors      features of normal patches
models/<model>/fusion.safetensors   MVEAD's projections
models/<model>/calibration.json     mean and deviation of normal patch scores in each view
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mvead_jax.backbones.base import Backbone, next_block
from mvead_jax.bank.fill import Bank, Keep
from mvead_jax.bank.nearest import ShardedRows, shard_rows
from mvead_jax.bank.store import map_banks, read_samples, write_banks
from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json, write_tensors
from mvead_jax.postprocess.evidence import Calibration
from mvead_jax.methods.mvead.method import Mvead, MveadState
from mvead_jax.methods.mvead.pretrain import Keeper
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.runtime.sharding import AXIS, mesh, replicate

log = logging.getLogger(__name__)

_UNFUSED = "-unfused"  # behind the name of a bank


def build_method(
    config: Config,
    views: tuple[str, ...],
    backbone: Backbone,
    *,
    keeper: Keeper | None = None,
    name: str = "",
) -> PatchCore | Mvead:
    """The method that `config` names.

    Args:
      views: names of the cameras, in the order of axis V.
      keeper: of its states while it trains. name: of the model, for messages.

    Raises:
      UserError: settings that do not fit the backbone.
    """
    if fuses(config) and config.bank.unfused and (taken := [v for v in views if v.endswith(_UNFUSED)]):
        raise UserError(
            f"view {taken[0]}: with bank.unfused, a name that ends with {_UNFUSED} is that of another view's "
            "bank; rename the view, or leave bank.unfused out"
        )
    keep = Keep(config.bank.kind, config.bank.share, config.bank.projection)
    if not fuses(config):
        return PatchCore(views, backbone.grid, config.bank.per_view, keep, config.score.search)
    method = Mvead(
        views,
        backbone.grid,
        backbone.width,
        config.fusion,
        config.train,
        config.bank.per_view,
        config.bank.unfused,
        backbone.heads,
        next_block(config.backbone, config.seed) if config.fusion.init == "copy" else None,
        keeper,
        name,
        keep,
        config.score.search,
    )
    _ = method.attention  # so that what does not fit is said here
    return method


def parameter_count(method: PatchCore | Mvead) -> int:
    """Numbers that the method's fusion learns; 0 without."""
    if not isinstance(method, Mvead):
        return 0
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(method.start(0))))


def fuses(config: Config) -> bool:
    """Whether the method joins views before its banks."""
    return config.method == "mvead" and config.fusion.kind != "none"


def of_one_view(config: Config, index: DatasetIndex) -> Config:
    """`config`, or where no category has a second view: PatchCore, for there is nothing to fuse, and no other
    view whose evidence could be added. The log says so."""
    if any(len(index.select(category=name).views) > 1 for name in index.categories):
        return config
    if fuses(config) or config.score.evidence != "none":
        log.warning("one view alone: nothing is fused and no evidence is added; this is PatchCore")
    alone = replace(config.score, evidence="none")
    return replace(config, method="patchcore", score=alone)


def write_model(
    workdir: Path,
    name: str,
    method: PatchCore | Mvead,
    state: Any,
    calibration: Calibration,
    facts: dict[str, Any],
) -> dict[str, int]:
    """Writes all that scoring needs of one model; returns the rows of each bank."""
    banks = dict(state.banks if isinstance(state, MveadState) else state)
    scales = {}
    if isinstance(state, MveadState) and state.unfused is not None:
        banks |= {name + _UNFUSED: bank for name, bank in state.unfused.items()}
        scales = {"scales": [_as_json(scale) for scale in state.scales]}
    folder = workdir / "models" / name
    if isinstance(state, MveadState):
        parameters = {name: np.asarray(leaf) for name, leaf in named_leaves(state.fusion)}
        write_tensors(folder / "fusion.safetensors", parameters)
    write_json(
        folder / "calibration.json",
        {"views": list(method.views)} | _as_json(calibration) | scales,
    )
    rows = {bank: own.rows for bank, own in banks.items()}
    write_banks(workdir / "banks" / name, rows, facts, {bank: own.sample for bank, own in banks.items()})
    return {bank: len(own) for bank, own in rows.items()}


def read_model(workdir: Path, name: str, method: PatchCore | Mvead) -> tuple[Any, Calibration]:
    """The state and the calibration that `write_model` wrote.

    Projections are on every device; the rows of a bank are divided over them, and a process reads only its
    own.

    Raises:
      UserError: a file that is missing or not what it should be.
    """
    folder = workdir / "models" / name
    banks, samples = map_banks(workdir / "banks" / name), read_samples(workdir / "banks" / name)
    state: Any = {bank: Bank(_on_devices(rows), samples[bank]) for bank, rows in banks.items()}
    calibration, scales = read_calibration(folder / "calibration.json", method)
    fusion = None
    if isinstance(method, Mvead):
        fusion = _read_fusion(folder / "fusion.safetensors", method)
    return assembled(method, state, fusion, scales), calibration


def read_calibration(
    path: Path, method: PatchCore | Mvead
) -> tuple[Calibration, tuple[Calibration, Calibration] | None]:
    """The calibration of patch scores, and the scales of a method that has banks of both kinds.

    Raises:
      UserError: missing, or of another method.
    """
    values = read_json(path, "the calibration of a trained model")
    scales = None
    try:
        calibration = _from_json(values, len(method.views))
        if isinstance(method, Mvead) and method.unfused:
            fused, plain = (_from_json(own, len(method.views)) for own in values["scales"])
            scales = fused, plain
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a calibration ({error!r}); train again") from error
    return calibration, scales


def assembled(
    method: PatchCore | Mvead,
    banks: Mapping[str, Bank],
    fusion: Mapping[str, Any] | None,
    scales: tuple[Calibration, Calibration] | None,
) -> Any:
    """The state of a method from its parts; `banks` under the names of their files."""
    if not isinstance(method, Mvead):
        return dict(banks)
    if not method.unfused:
        return MveadState(fusion, dict(banks), None, scales)
    unfused = {name.removesuffix(_UNFUSED): own for name, own in banks.items() if name.endswith(_UNFUSED)}
    own = {name: rows for name, rows in banks.items() if not name.endswith(_UNFUSED)}
    return MveadState(fusion, own, unfused or None, scales)


def _on_devices(rows: Float32[np.ndarray, "M D"]) -> jax.Array | ShardedRows:
    if mesh().size == 1:
        return jax.device_put(np.asarray(rows))
    return shard_rows(rows, mesh(), axis=AXIS)


def _as_json(calibration: Calibration) -> dict[str, list[float]]:
    return {"mean": calibration.mean.tolist(), "deviation": calibration.deviation.tolist()}


def _from_json(values: Any, views: int) -> Calibration:
    found = Calibration(np.array(values["mean"], np.float64), np.array(values["deviation"], np.float64))
    if not found.mean.shape == found.deviation.shape == (views,):
        raise ValueError("another number of views")
    return found


def fusion_of(method: Mvead, named: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by the names of fusion.safetensors, nested as MveadState.fusion has them."""
    expected = nnx.to_pure_dict(nnx.state(method.start(0)))
    leaves = [named[place] for place, _ in named_leaves(expected)]
    return jax.tree.unflatten(jax.tree.structure(expected), leaves)


def _read_fusion(path: Path, method: Mvead) -> dict[str, Any]:
    expected = nnx.to_pure_dict(nnx.state(method.start(0)))
    wanted = {place: leaf.shape for place, leaf in named_leaves(expected)}
    try:
        flat = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable ({error}); train again") from error
    found = {name: value.shape for name, value in flat.items()}
    if found != wanted:
        raise UserError(f"{path}: holds other projections than this config's fusion has; train again")
    return fusion_of(method, {place: replicate(value) for place, value in flat.items()})


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves of nested dicts as ("query.kernel", array)."""
    return [
        (".".join(key.key for key in place), leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
