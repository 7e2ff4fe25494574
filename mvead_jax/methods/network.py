"""A network in Flax NNX as what a method learns: how it is trained, kept in a state, and put together again.

The state of a network is {"parameters": ..., "statistics": ...}, nested by module: what the optimiser changes, and
what the forward pass changes in training (running statistics of batch norms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mvead_jax.config.schema import TrainConfig
from mvead_jax.methods.base import RunContext, State, TrainData, parameter_count
from mvead_jax.methods.batches import training_batch
from mvead_jax.training.loop import Problem, fit_loop

# (network, batch of `training_batch`, key) -> (loss, figures). The network is in training mode where it has one.
Loss = Callable[[Any, Mapping[str, Any], Array], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]
ReadBatch = Callable[[Int[np.ndarray, " n"], int, int], Mapping[str, Any]]


class LearnsNetwork:
    """What methods have in common whose whole state is one network: the bytes of it on disk.

    Attributes:
      numbers_of_training: that a checkpoint holds for each number of the network: itself, and the optimiser's
        moments, of which Adam has two.
    """

    numbers_of_training: ClassVar[int] = 3

    def state_bytes(self, images: int) -> int:
        """Return the bytes of the network, however many images it was trained on."""
        return 4 * parameter_count(self)

    def checkpoint_bytes(self) -> int:
        """Return the bytes of the network and of what the optimiser remembers."""
        return self.numbers_of_training * self.state_bytes(0)


def network_state(network: nnx.Module) -> State:
    """Return the parameters and the statistics of a network, as it is."""
    _, parameters, statistics = nnx.split(network, nnx.Param, ...)
    return {"parameters": nnx.to_pure_dict(parameters), "statistics": nnx.to_pure_dict(statistics)}


def network_graph(build: Callable[[], nnx.Module]) -> nnx.GraphDef:
    """Return what a network is without its numbers; `build` is not computed."""
    return nnx.split(nnx.eval_shape(build), nnx.Param, ...)[0]


def merged(graph: nnx.GraphDef, state: State) -> Any:
    """Return the network of a state. For use inside of a compiled function."""
    return nnx.merge(graph, state["parameters"], state["statistics"])


def train_network(
    network: nnx.Module,
    loss: Loss,
    data: TrainData,
    config: TrainConfig,
    optimiser: Callable[[int], optax.GradientTransformation],
    run: RunContext,
    name: str,
    *,
    read: ReadBatch | None = None,
    then: tuple[int, Loss] | None = None,
) -> State:
    """Train a network on the training samples; return its state.

    Args:
      network: as it starts.
      loss: of a batch; samples of weight 0 must not count. The means of figures are logged.
      optimiser: from the number of all steps.
      name: as of `fit_loop`.
      read: the batch of some positions, as of `Problem.batch`; None: `training_batch` of the data.
      then: a step, and the loss from that step on.

    Raises:
      Stopped, NotFinite: as of `fit_loop`.
    """
    graph, parameters, statistics = nnx.split(network, nnx.Param, ...)
    parameters, statistics = nnx.to_pure_dict(parameters), nnx.to_pure_dict(statistics)
    present, categories = data.index.present(), data.category_numbers()

    def of_batch(loss: Loss, parameters: State, statistics: State, batch: Mapping[str, Any], key: Array):
        network = nnx.merge(graph, parameters, statistics)
        value, figures = loss(network, batch, key)
        _, _, after = nnx.split(network, nnx.Param, ...)
        return value, ({"loss": value} | figures, nnx.to_pure_dict(after))

    problem = Problem(
        parameters=parameters,
        extras=statistics,
        begin=lambda: statistics,
        loss=partial(of_batch, loss),
        batch=read or (lambda chosen, size, epoch: training_batch(data, present, categories, chosen, size)),
        names=[sample.id for sample in data.index.samples],
        optimiser=optimiser,
        then=then and (then[0], partial(of_batch, then[1])),
    )
    found = fit_loop(problem, config, run.seed, name, run.checkpoints)
    return dict(zip(("parameters", "statistics"), jax.device_get(found), strict=True))
