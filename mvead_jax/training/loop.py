"""The one training loop: every method that is trained by gradient descent gives it a `Problem`.

A run is a function of (config, seed, data): the order of samples follows from (seed, epoch), everything random
in a step from (seed, step). So a run that is killed and goes on from any state ends in the same bytes; on another
number of devices it differs by the order in which float32 gradients are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mvead_jax.config.schema import TrainConfig
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.runtime.progress import progress
from mvead_jax.training.checkpoints import Checkpoints

Tree = Any  # nested dicts of arrays
Figures = dict[str, Float[Array, ""]]  # of one step, for people: means over its samples
Loss = Callable[[Tree, Tree, Tree, Array], tuple[Float[Array, ""], tuple[Figures, Tree]]]


@dataclass(frozen=True)
class Problem:
    """What a method wants trained.

    Attributes:
      parameters: what the optimiser changes, as it starts.
      extras: in shapes, what else the loss reads and a step may change: running statistics, centres.
      begin: makes the extras of a run that starts from the beginning.
      loss: (parameters, extras, batch, key) -> (loss, (figures, extras)) of a whole batch, divided over the mesh
        or not. Samples whose "weight" in the batch is 0 only fill it up. `key` follows from seed and step.
      batch: (positions of samples, samples in a full batch, epoch) -> arrays over the mesh; run in a thread.
      names: of the samples, for messages. Their number is that of the samples.
      optimiser: from the number of steps of the whole training.
      each_epoch: (parameters, extras, epoch) -> extras, before every epoch but the first.
      then: a step, and the loss from that step on. Two programs, and not one that branches: inside a branch XLA
        computes the derivatives of convolutions on a CPU by loops of its own, some thirty times slower.
    """

    parameters: Tree
    extras: Tree
    begin: Callable[[], Tree]
    loss: Loss
    batch: Callable[[Int[np.ndarray, " n"], int, int], Tree]
    names: Sequence[str]
    optimiser: Callable[[int], optax.GradientTransformation]
    each_epoch: Callable[[Tree, Tree, int], Tree] | None = None
    then: tuple[int, Loss] | None = None


class NotFinite(UserError):
    """A loss that is no number."""


def fit_loop(
    problem: Problem, config: TrainConfig, seed: int, name: str, checkpoints: Checkpoints | None = None
) -> tuple[Tree, Tree]:
    """Train a model, or go on where an earlier run stopped.

    The samples of a step are divided over all devices; all processes must call.

    Args:
      name: of the model, for the progress line and messages.
      checkpoints: where a state goes after every epoch; None: none is kept.

    Returns:
      The parameters and the extras after the last step.

    Raises:
      Stopped: the run was asked to stop; its state is saved.
      NotFinite: the loss is no number; the message names the step and its samples.
    """
    steps = steps_of_epoch(len(problem.names), config)
    optimiser = problem.optimiser(steps * config.epochs)
    state = {
        "parameters": problem.parameters,
        "optimizer": optimiser.init(problem.parameters),
        "extras": problem.extras,
        "step": np.int32(0),
    }
    kept = checkpoints.restore(state) if checkpoints else None
    if kept is None:
        state |= {"extras": problem.begin()}
        _save(checkpoints, state)
    else:
        state = kept
    first, last = int(state["step"]), steps * config.epochs
    # Copies, whose buffers the step may reuse: some may be the backbone's.
    state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(sharding.replicate(state))
    # Closed after an error too: a thread reads them.
    with closing(_batches(problem, config, seed, first, last)) as batches:
        numbered = zip(range(first, last), batches, strict=True)
        for part in _parts(problem, first, last):
            step = make_step(part.loss, optimiser, jax.random.key(seed))
            with progress(f"training {name}{part.title}", part.end, "steps", done=part.begin) as bar:
                for number, (chosen, batch) in islice(numbered, part.end - part.begin):
                    epoch, position = divmod(number, steps)
                    if position == 0 and epoch and problem.each_epoch:
                        extras = problem.each_epoch(state["parameters"], state["extras"], epoch)
                        state |= {"extras": sharding.replicate(extras)}
                    state, figures = step(state, batch)
                    figures = {key: float(value) for key, value in figures.items()}
                    where = f"training {name}: step {number}"
                    _check_finite(figures, where, [problem.names[i] for i in chosen])
                    if checkpoints:
                        checkpoints.record({"step": number, "epoch": epoch, **part.event, **figures})
                    bar.advance(note=f"loss {figures['loss']:.4f}")
                    stopping = checkpoints.stopping() if checkpoints else False
                    if position == steps - 1 or stopping:
                        _save(checkpoints, jax.device_get(state))
                    if stopping:
                        raise Stopped(f"training {name}: stopped after step {number}")
    return state["parameters"], state["extras"]


@dataclass(frozen=True)
class _Part:
    """Steps with one loss, one program and one pace, so that the time left can be told.

    Attributes:
      begin, end: steps. title: behind the name of the training. event: for the log.
    """

    begin: int
    end: int
    loss: Loss
    title: str = ""
    event: Mapping[str, int] = field(default_factory=dict)


def _parts(problem: Problem, first: int, last: int) -> list[_Part]:
    """Return the parts that are left from step `first` on: two where a later loss follows, else one."""
    if problem.then is None:
        return [_Part(first, last, problem.loss)]
    boundary, later = problem.then
    both = (first, min(boundary, last), problem.loss), (max(first, boundary), last, later)
    return [
        _Part(begin, end, loss, f", part {number} of 2", {"part": number})
        for number, (begin, end, loss) in enumerate(both, 1)
        if begin < end
    ]


def steps_of_epoch(samples: int, config: TrainConfig) -> int:
    """Return how many steps an epoch has; at least one."""
    if config.whole_batches:
        return max(1, samples // config.batch_size)
    return -(-samples // config.batch_size)


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    key: Array,
) -> Callable[[Tree, Tree], tuple[Tree, Figures]]:
    """Return (state, batch) -> (state, figures), compiled; the state's buffers are reused."""

    def step(state: Tree, batch: Tree) -> tuple[Tree, Figures]:
        own_key = jax.random.fold_in(key, state["step"])

        def of_parameters(parameters: Tree):
            return loss(parameters, state["extras"], batch, own_key)

        gradient, (figures, extras) = jax.grad(of_parameters, has_aux=True)(state["parameters"])
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            updates, optimiser_state = optimiser.update(gradient, state["optimizer"], state["parameters"])
        figures["gradient_norm"] = optax.tree.norm(gradient)
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "optimizer": optimiser_state,
            "extras": extras,
            "step": state["step"] + 1,
        }, figures

    return jax.jit(step, donate_argnums=0)


def order_of_epoch(count: int, seed: int, epoch: int) -> Int[np.ndarray, " count"]:
    """Return the order of samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _batches(
    problem: Problem, config: TrainConfig, seed: int, first: int, last: int
) -> Iterator[tuple[Int[np.ndarray, " n"], Tree]]:
    """The batches from step `first` on, each read while the step before it is computed."""
    count, size = len(problem.names), config.batch_size
    steps = steps_of_epoch(count, config)

    def read(number: int) -> tuple[Int[np.ndarray, " n"], Tree]:
        epoch, position = divmod(number, steps)
        chosen = order_of_epoch(count, seed, epoch)[position * size :][:size]
        return chosen, problem.batch(chosen, size, epoch)

    if first >= last:
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, first)
        for number in range(first, last):
            found = ahead.result()
            if number + 1 < last:
                ahead = reader.submit(read, number + 1)
            yield found


def _save(checkpoints: Checkpoints | None, state: Tree) -> None:
    if checkpoints:
        checkpoints.save(state)


def _check_finite(figures: dict[str, float], where: str, names: list[str]) -> None:
    """Raise NotFinite if a step went wrong; `names`: of its samples."""
    loss, norm = figures["loss"], figures["gradient_norm"]
    if not (np.isfinite(loss) and np.isfinite(norm)):
        error = NotFinite(
            f"{where} has loss {loss} and gradient norm {norm}, on {', '.join(names)}; the last good state "
            "is kept: take a lower train.learning_rate or look at these samples"
        )
        sharding.raise_in_all(error)
