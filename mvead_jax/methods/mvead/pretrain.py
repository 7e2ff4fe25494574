"""Multi-centre pre-training of the attention's projections on normal samples (MVEAD section 3.3).

A run is a function of (config, seed, features): the order of samples follows from (seed, epoch), what is
masked from (seed, step) and a sample's place in its batch. So a run that goes on from any step ends in the
same bytes; on another number of devices it differs by the order in which float32 gradients are summed.

Letters: B samples in a step, V views, N patches of a view, K centres, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from sklearn.cluster import MiniBatchKMeans

from mvead_jax.runtime import sharding
from mvead_jax.config.schema import TrainConfig
from mvead_jax.data.records import spread_evenly
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.methods.mvead.attention import EpipolarAttention, Keys, attend_batch, over_samples
from mvead_jax.methods.mvead.objective import (
    multi_center_loss,
    nearest_centers,
    negative_loss,
    select_negatives,
)
from mvead_jax.runtime.progress import progress

State = dict[str, Any]  # "parameters", "optimizer", "centers" [V,K,D], "step"


@dataclass(frozen=True)
class NormalSamples:
    """What pre-training looks at.

    Attributes:
      features: [S,V,N,D], a NumPy array or a FeatureStore; rows are read as they are needed.
      present: [S,V], which views each sample has.
      keys: of each category, as the attention takes them. masks: the same as masks.
      category: [S], which of them a sample has.
      names: of the samples, for messages.
    """

    features: Any
    present: Bool[np.ndarray, "S V"]
    keys: tuple[Keys, ...]
    masks: Bool[np.ndarray, "C V V N N"]
    category: Int[np.ndarray, " S"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.present)


class Keeper(Protocol):
    """What outlives a killed run. All processes call it, and hear the same."""

    def restore(self, like: State) -> State | None:
        """The newest state that was saved, in the shapes of `like`; None if there is none."""

    def save(self, state: State) -> None:
        """Keeps a state."""

    def record(self, event: dict[str, Any]) -> None:
        """Notes the figures of one step."""

    def stopping(self) -> bool:
        """Whether someone asked the run to stop."""


class NotFinite(UserError):
    """A loss that is no number."""


def attend_all(
    attention: EpipolarAttention, samples: NormalSamples, chosen: Int[np.ndarray, " n"], batch_size: int = 8
) -> Float[np.ndarray, "n V N D"] | None:
    """Attended features of some samples, at most `batch_size` at a time on each device.

    All processes must call; only the first has room for the result, the others get None.
    """
    sharding.meet()  # the first may have had more to do
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
    """K centres for each view, by k-means over attended patches of the view (decision D7).

    At most `most_patches` patches of a view are looked at, of samples spread evenly over the set. A view with
    fewer different patches than K repeats centres. All processes must call; the first runs k-means.

    Raises:
      NotFinite: an attended feature is no number; the message names the samples.
    """
    views, patches = samples.features.shape[1:3]
    wanted = max(1, -(-most_patches // patches))
    having = [np.flatnonzero(has) for has in samples.present.T]
    of_view = [own[spread_evenly(len(own), wanted)] for own in having]
    chosen = np.unique(np.concatenate(of_view))
    outputs = attend_all(attention, samples, chosen)
    centers = np.zeros((views, count, samples.features.shape[3]), np.float32)
    with sharding.together():
        if outputs is not None:
            names = [samples.names[i] for i in chosen]
            _check_attended(outputs, names)
            for view in range(views):
                own = np.searchsorted(chosen, of_view[view])
                rows = outputs[own, view].reshape(-1, outputs.shape[-1])[:most_patches]
                centers[view] = _k_means(rows, count, seed + view)
    return sharding.arrays_from_first(centers)


def _check_attended(outputs: Float[np.ndarray, "n V N D"], names: list[str]) -> None:
    """Raises NotFinite where an attended feature of a sample is no number."""
    if bad := [name for name, own in zip(names, outputs, strict=True) if not np.isfinite(own).all()]:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NotFinite(f"{', '.join(bad[:3])}{more}: attended features that are no numbers, so no centres")


def _k_means(rows: Float[np.ndarray, "n D"], count: int, seed: int) -> Float[np.ndarray, "K D"]:
    if count == 1:
        return rows.mean(0, keepdims=True, dtype=np.float64)
    k_means = MiniBatchKMeans(min(count, len(rows)), random_state=seed, n_init=3, batch_size=4096)
    return np.resize(k_means.fit(rows).cluster_centers_, (count, rows.shape[1]))


def pretrain(
    attention: EpipolarAttention,
    samples: NormalSamples,
    config: TrainConfig,
    seed: int,
    keeper: Keeper,
    name: str,
) -> Float[np.ndarray, "V K D"]:
    """Trains the attention in place; only its projections and norm have parameters.

    The samples of a step are divided over all devices; all processes must call.

    Args:
      attention: as it starts (decision D5).
      samples: normal ones.
      config: with an objective other than `none`.
      seed: of the order of samples, the masked patches and k-means.
      keeper: where states go after every epoch, and come from when a run goes on.
      name: for the progress line.

    Returns:
      The centres.

    Raises:
      Stopped: the keeper said so; the state is saved.
      NotFinite: the loss is no number; the message names the step and its samples.
    """
    graph, parameters = nnx.split(attention)
    parameters = nnx.to_pure_dict(parameters)
    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    count = 1 if config.objective == "deepsvdd" else config.centers
    views, width = samples.features.shape[1], samples.features.shape[3]
    like = {
        "parameters": parameters,
        "optimizer": optimizer.init(parameters),
        "centers": np.zeros((views, count, width), np.float32),
        "step": np.int32(0),
    }
    k_means = partial(k_means_centers, attention, samples, count, config.center_patches, seed)
    state = keeper.restore(like)
    if state is None:
        state = like | {"centers": k_means()}
        keeper.save(state)
    first = int(state["step"])
    step = make_step(graph, optimizer, samples, config, jax.random.key(seed))
    # Copies, whose buffers the step may reuse: some are the backbone's.
    state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(sharding.replicate(state))
    steps = -(-len(samples) // config.batch_size)
    with progress(f"pre-training {name}", steps * config.epochs, "steps", done=first) as bar:
        for number in range(first, steps * config.epochs):
            epoch, position = divmod(number, steps)
            if position == 0 and epoch and config.center_update == "epoch":
                nnx.update(attention, state["parameters"])
                state |= {"centers": sharding.replicate(k_means())}
            chosen = _order(len(samples), seed, epoch)[position * config.batch_size :][: config.batch_size]
            state, figures = step(state, make_batch(samples, chosen, config.batch_size))
            figures = {key: float(value) for key, value in figures.items()}
            _check_finite(figures, f"pre-training {name}: step {number}", [samples.names[i] for i in chosen])
            keeper.record({"step": number, "epoch": epoch, **figures})
            bar.advance(note=f"loss {figures['loss']:.4f}")
            stopping = keeper.stopping()
            if position == steps - 1 or stopping:
                keeper.save(jax.device_get(state))
            if stopping:
                raise Stopped(f"pre-training {name}: stopped after step {number}")
    nnx.update(attention, state["parameters"])
    return np.asarray(state["centers"])


def _check_finite(figures: dict[str, float], where: str, names: list[str]) -> None:
    """Raises NotFinite if a step went wrong; `names`: of its samples."""
    loss, norm = figures["loss"], figures["gradient_norm"]
    if not (np.isfinite(loss) and np.isfinite(norm)):
        error = NotFinite(
            f"{where} has loss {loss} and gradient norm {norm}, on {', '.join(names)}; the last good state "
            "is kept: take a lower train.learning_rate or look at these samples"
        )
        sharding.raise_in_all(error)


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def make_batch(samples: NormalSamples, chosen: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The chosen samples over the mesh, filled up by repeats that weigh nothing.

    Up to `size`, and to a multiple of the devices; each process reads its own rows.
    """
    places = np.arange(sharding.padded(size))[sharding.own_rows(sharding.padded(size))]
    filled = chosen[places % len(chosen)]
    rows = {
        "z": samples.features[filled],
        "present": samples.present[filled],
        "category": samples.category[filled],
        "weight": (places < len(chosen)).astype(np.float32),
    }
    return sharding.place(rows)


def make_step(graph, optimizer, samples: NormalSamples, config: TrainConfig, key: Array):
    """(state, batch) -> (state, figures), compiled; the state's buffers are reused."""
    masks = sharding.replicate(samples.masks)
    # The samples of a step may be of several categories, whose bands differ in size; masks do not.
    shared = sharding.replicate(samples.keys[0]) if len(samples.keys) == 1 else None

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: dict[str, Array]) -> tuple[State, dict[str, Array]]:
        # Of a sample's place in the batch, whatever it was filled up to.
        keys = jax.random.split(jax.random.fold_in(key, state["step"]), config.batch_size)
        if len(batch["weight"]) > len(keys):
            keys = keys[np.arange(len(batch["weight"])) % len(keys)]

        def losses(constants, rows):
            parameters, centers, masks, shared = constants
            attention = nnx.merge(graph, parameters)

            def of_sample(z, present, category, key):
                mask = masks[category]
                keys = mask if shared is None else shared
                return _sample_loss(attention, z, keys, mask, present, centers, config, key)

            return over_samples(of_sample, *rows)

        def loss(parameters):
            rows = batch["z"], batch["present"], batch["category"], keys
            constants = parameters, state["centers"], masks, shared
            own = sharding.on_each_device(losses, sharding.mesh())(constants, rows)
            figures = {
                name: jnp.sum(value * batch["weight"]) / batch["weight"].sum() for name, value in own.items()
            }
            return figures["loss"], figures

        gradient, figures = jax.grad(loss, has_aux=True)(state["parameters"])
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["parameters"])
        figures["gradient_norm"] = optax.tree.norm(gradient)
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "optimizer": optimizer_state,
            "centers": state["centers"],
            "step": state["step"] + 1,
        }, figures

    return step


def _sample_loss(
    attention: EpipolarAttention,
    z: Float[Array, "V N D"],
    keys: Keys,
    mask: Bool[Array, "V V N N"],
    present: Bool[Array, " V"],
    centers: Float[Array, "V K D"],
    config: TrainConfig,
    key: Array,
) -> dict[str, Array]:
    """Eq. 10 of one sample, its two terms, and what tells a collapse."""
    out = attention(z, keys, present)
    positive = multi_center_loss(out, centers, present)
    figures = {
        "loss": positive,
        "positive": positive,
        "spread": _spread(out, present) / jnp.maximum(_spread(z, present), 1e-12),
        "centers_used": _centers_used(out, centers, present),
    }
    if config.objective == "mcp+reg":
        negative = _negatives(attention, z, out, keys, mask, present, centers, config, key)
        figures |= {"negative": negative, "loss": positive + config.negative_weight * negative}
    return figures


def _negatives(attention, z, out, keys, mask, present, centers, config: TrainConfig, key) -> Float[Array, ""]:
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

    count = max(1, round(config.mask_ratio * patches))
    hidden = jax.random.permutation(draw_patches, patches)[:count]
    fill = z[support].mean(0) if config.mask_fill == "mean" else jnp.zeros(z.shape[-1], z.dtype)
    out_masked = attention(z.at[support, hidden].set(fill[None]), keys, present)  # Decision D8
    in_reference, in_support = out_masked[reference], out_masked[support]

    linked = mask[reference, support][:, hidden].T & others.any()  # [count,N]: of the reference view
    most = min(config.negatives, patches)
    changed = jax.vmap(lambda own: select_negatives(out[reference], in_reference, own, most))(linked)
    counts = jnp.take_along_axis(linked, changed, axis=1).reshape(-1)
    z_neg = jnp.concatenate([in_reference[changed.reshape(-1)], in_support[hidden]])
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
