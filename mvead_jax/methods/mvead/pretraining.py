"""Multi-centre pre-training of the attention's projections on normal samples (MVEAD section 3.3).

What is masked follows from (seed, step) and a sample's place in its batch.

Letters: B samples in a step, V views, N patches of a view, K centres, D width.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mvead_jax.data.records import spread_evenly
from mvead_jax.methods.base import PATCHES, TrainData
from mvead_jax.methods.batches import training_batch
from mvead_jax.methods.mvead.attention import EpipolarAttention, Keys, attend_batch
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.methods.mvead.objective import (
    multi_center_loss,
    nearest_centers,
    negative_loss,
    select_negatives,
    taken,
)
from mvead_jax.runtime import sharding
from mvead_jax.runtime.plain import mapped_on_cpu
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.training.loop import NotFinite, Problem, fit_loop
from mvead_jax.training.optimisers import adamw


@dataclass(frozen=True)
class NormalSamples:
    """What pre-training looks at.

    Attributes:
      data: the training samples.
      keys: of each category, as the attention takes them.
      gather: sum gradients in a fixed order, as `fusion.gradient`.
    """

    data: TrainData
    keys: tuple[Keys, ...]
    gather: bool = False

    def __len__(self) -> int:
        return len(self.data.index)

    @property
    def features(self) -> Float[np.ndarray, "S V h w D"]:
        """An array or a FeatureStore; rows are read as they are needed."""
        return self.data.features[PATCHES]

    @cached_property
    def present(self) -> Bool[np.ndarray, "S V"]:
        return self.data.index.present()

    @cached_property
    def category(self) -> Int[np.ndarray, " S"]:
        return self.data.category_numbers()

    @cached_property
    def masks(self) -> Bool[np.ndarray, "C V V N N"]:
        """The keys of each category as masks."""
        return np.stack([self.data.geometry[name].mask for name in self.data.categories])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sample.id for sample in self.data.index.samples)


def attend_all(
    attention: EpipolarAttention, samples: NormalSamples, chosen: Int[np.ndarray, " n"], batch_size: int = 8
) -> Float[np.ndarray, "n V h w D"] | None:
    """Return the attended features of some samples, computed at most `batch_size` at a time on each device.

    All processes must call; only the first has room for the result, the others get None.
    """
    sharding.barrier()  # the first may have had more to do
    graph, parameters = nnx.split(attention)
    parameters = sharding.replicate(parameters)
    _, views, *rest = samples.features.shape
    out = None
    if sharding.is_first():  # a view lies in one piece
        out = np.empty((views, len(chosen), *rest), np.float32).swapaxes(0, 1)
    for number, keys in enumerate(samples.keys):
        keys = sharding.replicate(keys)
        own = np.flatnonzero(samples.category[chosen] == number)
        size = sharding.batch_of(len(own), batch_size)
        for start in range(0, len(own), size):
            places = own[start : start + size]
            filled = chosen[np.resize(places, size)][sharding.own_rows(size)]  # repeats: one size is compiled
            batch = sharding.place((samples.features[filled], samples.present[filled]))
            fused = sharding.to_host(attend_batch(graph, parameters, *batch, keys, mesh=sharding.mesh()))
            if out is not None:
                out[places] = fused[: len(places)]
    return out


def k_means_centers(
    attention: EpipolarAttention, samples: NormalSamples, count: int, most_patches: int, seed: int
) -> Float[np.ndarray, "V K D"]:
    """Return K centres for each view, by k-means over attended patches of the view (decision D7).

    At most `most_patches` patches of a view are looked at, of samples spread evenly over the set. A view with
    fewer different patches than K repeats centres. All processes must call; the first runs k-means.

    Raises:
      NotFinite: an attended feature is no number; the message names the samples.
    """
    views, rows, columns, width = samples.features.shape[1:]
    wanted = max(1, -(-most_patches // (rows * columns)))
    having = [np.flatnonzero(has) for has in samples.present.T]
    of_view = [own[spread_evenly(len(own), wanted)] for own in having]
    chosen = np.unique(np.concatenate(of_view))
    outputs = attend_all(attention, samples, chosen)
    centers = np.zeros((views, count, width), np.float32)
    with sharding.shared_errors():
        if outputs is not None:
            names = samples.names
            _check_attended(outputs, [names[i] for i in chosen])
            for view in range(views):
                own = np.searchsorted(chosen, of_view[view])
                patches = outputs[own, view].reshape(-1, width)[:most_patches]
                centers[view] = _k_means(patches, count, seed + view)
    return sharding.broadcast_arrays(centers)


def _check_attended(outputs: Float[np.ndarray, "n V h w D"], names: list[str]) -> None:
    """Raise NotFinite where an attended feature of a sample is no number."""
    if bad := [name for name, own in zip(names, outputs, strict=True) if not np.isfinite(own).all()]:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NotFinite(f"{', '.join(bad[:3])}{more}: attended features that are no numbers, so no centres")


def _k_means(rows: Float[np.ndarray, "n D"], count: int, seed: int) -> Float[np.ndarray, "K D"]:
    if count == 1:
        return rows.mean(0, keepdims=True, dtype=np.float64)
    from sklearn.cluster import MiniBatchKMeans  # here: it takes a second, and an Inspector needs none

    k_means = MiniBatchKMeans(min(count, len(rows)), random_state=seed, n_init=3, batch_size=4096)
    return np.resize(k_means.fit(rows).cluster_centers_, (count, rows.shape[1]))


def pretrain(
    attention: EpipolarAttention,
    samples: NormalSamples,
    config: PretrainConfig,
    seed: int,
    checkpoints: Checkpoints | None,
    name: str,
) -> Float[np.ndarray, "V K D"]:
    """Train the attention in place; only its projections and norm have parameters.

    All processes must call.

    Args:
      attention: as it starts (decision D5).
      config: with an objective other than `none`.
      seed: of the order of samples, the masked patches and k-means.
      checkpoints, name: as of `fit_loop`.

    Returns:
      The centres.

    Raises:
      Stopped, NotFinite: as `fit_loop`.
    """
    graph, parameters = nnx.split(attention)
    parameters = nnx.to_pure_dict(parameters)
    count = 1 if config.objective == "deepsvdd" else config.centers
    views, width = samples.features.shape[1], samples.features.shape[-1]
    k_means = partial(k_means_centers, attention, samples, count, config.center_patches, seed)

    def again(parameters: Any, centers: Any, epoch: int) -> Float[np.ndarray, "V K D"]:
        nnx.update(attention, parameters)
        return k_means()

    problem = Problem(
        parameters=parameters,
        extras=np.zeros((views, count, width), np.float32),
        begin=k_means,
        loss=batch_loss(graph, samples, config),
        batch=lambda chosen, size, epoch: training_batch(
            samples.data, samples.present, samples.category, chosen, size
        ),
        names=samples.names,
        optimiser=partial(adamw, config),
        each_epoch=again if config.center_update == "epoch" else None,
    )
    parameters, centers = fit_loop(problem, config, seed, name, checkpoints)
    nnx.update(attention, parameters)
    return np.asarray(centers)


def batch_loss(graph: nnx.GraphDef, samples: NormalSamples, config: PretrainConfig):
    """Return eq. 10 of a batch, as `Problem.loss` takes it; the extras are the centres."""
    masks = sharding.replicate(samples.masks)
    # The samples of a step may be of several categories, whose bands differ in size; masks do not.
    shared = sharding.replicate(samples.keys[0]) if len(samples.keys) == 1 else None

    def losses(constants, rows):
        parameters, centers, masks, shared = constants
        attention = nnx.merge(graph, parameters)

        def of_sample(row):
            z, present, category, key = row
            mask = masks[category]
            keys = mask if shared is None else shared
            return sample_loss(attention, z, keys, mask, present, centers, config, key, samples.gather)

        return mapped_on_cpu(of_sample, rows)

    def loss(parameters: Any, centers: Any, batch: Mapping[str, Array], key: Array):
        # Of a sample's place in the batch, whatever it was filled up to.
        keys = jax.random.split(key, config.batch_size)
        if len(batch["weight"]) > len(keys):
            keys = keys[np.arange(len(batch["weight"])) % len(keys)]
        z = batch["features"][PATCHES]
        z = z.reshape(*z.shape[:2], -1, z.shape[-1])  # [B,V,N,D]
        rows = z, batch["present"], batch["category"], keys
        own = sharding.on_each_device(losses, sharding.mesh())((parameters, centers, masks, shared), rows)
        weight = batch["weight"]
        figures = {name: jnp.sum(value * weight) / weight.sum() for name, value in own.items()}
        return figures["loss"], (figures, centers)

    return loss


def sample_loss(
    attention: EpipolarAttention,
    z: Float[Array, "V N D"],
    keys: Keys,
    mask: Bool[Array, "V V N N"],
    present: Bool[Array, " V"],
    centers: Float[Array, "V K D"],
    config: PretrainConfig,
    key: Array,
    gather: bool = False,
) -> dict[str, Array]:
    """Return eq. 10 of one sample, its two terms, and what tells a collapse. Args: gather: as of NormalSamples."""
    projected = attention.project(z)
    out = attention.attend(z, projected, keys, present)
    positive = multi_center_loss(out, centers, present)
    figures = {
        "loss": positive,
        "positive": positive,
        "spread": _spread(out, present) / jnp.maximum(_spread(z, present), 1e-12),
        "centers_used": _centers_used(out, centers, present),
    }
    if config.objective == "mcp+reg":
        negative = _negatives(attention, z, projected, out, keys, mask, present, centers, config, key, gather)
        figures |= {"negative": negative, "loss": positive + config.negative_weight * negative}
    return figures


def _negatives(
    attention, z, projected, out, keys, mask, present, centers, config: PretrainConfig, key, gather: bool
) -> Float[Array, ""]:
    """L_neg of one sample (eq. 8, 9): masked patches of a support view, and what they change in another."""
    views, patches, _ = z.shape
    draw_support, draw_reference, draw_patches = jax.random.split(key, 3)
    chance = present.astype(z.dtype) / jnp.maximum(present.sum(), 1).astype(z.dtype)
    support = jax.random.choice(draw_support, views, p=chance)
    others = present & (jnp.arange(views) != support)
    linked_views = others & mask[:, support].any((1, 2))
    others = jnp.where(linked_views.any(), linked_views, others)
    chance = others.astype(z.dtype) / jnp.maximum(others.sum(), 1).astype(z.dtype)
    reference = jax.random.choice(draw_reference, views, p=chance)
    reference = jnp.where(
        others.any(), reference, (support + 1) % views
    )  # any other, or the only one: it counts in nothing

    count = max(1, round(config.mask_ratio * patches))
    hidden = jax.random.permutation(draw_patches, patches)[:count]
    fill = z[support].mean(0) if config.mask_fill == "mean" else jnp.zeros(z.shape[-1], z.dtype)
    # Decision D8. Patches are projected one by one, so that those of the hidden ones alone are others.
    is_hidden = jnp.zeros((views, patches), bool).at[support, hidden].set(True)[..., None]
    masked = jax.tree.map(
        lambda one, every: jnp.where(is_hidden[..., None], one, every),
        attention.project(fill[None, None]),
        projected,
    )
    z_masked, of = jnp.where(is_hidden, fill[None, None], z), jnp.stack([reference, support])
    in_reference, in_support = attention.attend(z_masked, masked, keys, present, of)

    linked = mask[reference, support][:, hidden].T & others.any()  # [count,N]: of the reference view
    most = min(config.negatives, patches)
    changed = jax.vmap(lambda own: select_negatives(out[reference], in_reference, own, most))(linked)
    counts = jnp.take_along_axis(linked, changed, axis=1).reshape(-1)
    take = taken if gather else operator.getitem
    z_neg = jnp.concatenate([take(in_reference, changed.reshape(-1)), take(in_support, hidden)])
    view = jnp.concatenate([jnp.full(counts.shape, reference), jnp.full(count, support)])
    where = jnp.concatenate([counts, jnp.ones(count, bool)])
    return negative_loss(z_neg, view, centers, where)


def _spread(z: Float[Array, "V N D"], present: Bool[Array, " V"]) -> Float[Array, ""]:
    """Root mean square distance of a view's patches from their mean."""
    squared = jnp.sum(jnp.square(z - z.mean(1, keepdims=True)), axis=-1).mean(1)
    weight = jnp.asarray(present).astype(z.dtype)
    return jnp.sqrt(jnp.sum(squared * weight) / jnp.maximum(weight.sum(), 1))


def _centers_used(out, centers, present) -> Float[Array, ""]:
    """Share of the centres that are nearest to some patch of the sample."""
    assigned = jax.vmap(nearest_centers)(out, centers)  # [V,N]
    used = jax.nn.one_hot(assigned, centers.shape[1], dtype=bool).any(1).mean(1)  # [V]
    weight = jnp.asarray(present).astype(used.dtype)
    return jnp.sum(used * weight) / jnp.maximum(weight.sum(), 1)
