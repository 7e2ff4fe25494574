"""The training loop on a problem that is small enough to be done again by hand."""

import dataclasses
import threading
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from training.keeper import Keeper

from mvead_jax.config.schema import TrainConfig
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.training.loop import NotFinite, Problem, fit_loop, order_of_epoch, steps_of_epoch


class WholeBatches(TrainConfig):
    whole_batches = True


COUNT, WIDTH, RATE, NOISE = 8, 3, 0.1, 0.01
CONFIG = TrainConfig(epochs=3, batch_size=3)
WHOLE = WholeBatches(epochs=3, batch_size=3)
STEPS = 9  # of which the last of an epoch has two samples
SEED = 4


@dataclass
class Quadratic:
    """The point with the least mean squared distance to the samples, and a running mean of the batches.

    Attributes:
      data: [S,D]. asked: which samples each call of `batch` was for, and of which epoch. begun: calls of `begin`.
    """

    data: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype("f4")
    )
    asked: list = field(default_factory=list)
    begun: int = 0

    def begin(self):
        self.begun += 1
        return {"mean": np.full(WIDTH, 0.5, np.float32)}

    def batch(self, chosen, size, epoch):
        self.asked.append((chosen.tolist(), size, epoch))
        rows = sharding.padded(size)
        filled = chosen[np.arange(rows) % len(chosen)]
        weight = (np.arange(rows) < len(chosen)).astype(np.float32)
        return sharding.place({"x": self.data[filled], "weight": weight})

    def loss(self, parameters, extras, batch, key):
        total = batch["weight"].sum()
        squared = jnp.sum((parameters["point"][None] - batch["x"]) ** 2, axis=-1)
        noise = NOISE * jnp.sum(parameters["point"] * jax.random.normal(key, (WIDTH,), jnp.float32))
        value = 0.5 * jnp.sum(squared * batch["weight"]) / total + noise
        mean = jnp.sum(batch["x"] * batch["weight"][:, None], 0) / total
        running = 0.9 * extras["mean"] + 0.1 * mean
        return value, (
            {"loss": value, "distance": jnp.sum(squared * batch["weight"]) / total},
            {"mean": running},
        )

    def problem(self, **changes):
        given = {
            "parameters": {"point": jnp.zeros(WIDTH, jnp.float32)},
            "extras": {"mean": np.zeros(WIDTH, np.float32)},
            "begin": self.begin,
            "loss": self.loss,
            "batch": self.batch,
            "names": [f"sample{i}" for i in range(len(self.data))],
            "optimiser": lambda steps: optax.sgd(RATE, momentum=0.5),
        }
        return Problem(**given | changes)


def run(quadratic=None, keeper=None, config=CONFIG, seed=SEED, **changes):
    """Point, running mean and keeper after a training."""
    keeper = keeper or Keeper()
    parameters, extras = fit_loop((quadratic or Quadratic()).problem(**changes), config, seed, "cap", keeper)
    return np.asarray(parameters["point"]), np.asarray(extras["mean"]), keeper


def by_hand(config=CONFIG, seed=SEED, each_epoch=None):
    """The same in float64, step by step: gradient descent with momentum over the batches of each epoch."""
    data = Quadratic().data.astype("f8")
    point, mean, momentum, losses = np.zeros(WIDTH), np.full(WIDTH, 0.5), np.zeros(WIDTH), []
    for epoch in range(config.epochs):
        if epoch and each_epoch:
            mean = each_epoch(mean, epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(data))
        for start in range(0, len(data), config.batch_size):
            own = data[order[start : start + config.batch_size]]
            if config.whole_batches and len(own) < config.batch_size:
                continue
            key = jax.random.fold_in(jax.random.key(seed), len(losses))
            noise = NOISE * np.asarray(jax.random.normal(key, (WIDTH,), jnp.float32), np.float64)
            losses.append(0.5 * ((point - own) ** 2).sum(1).mean() + noise @ point)
            mean = 0.9 * mean + 0.1 * own.mean(0)
            momentum = 0.5 * momentum + (point - own.mean(0)) + noise
            point = point - RATE * momentum
    return point, mean, losses


def assert_same(found, expected):
    """To the byte, with the figures of every step."""
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[2].events == expected[2].events


@pytest.fixture(scope="module")
def finished():
    return run()


def on(devices, patch):
    mesh = Mesh(np.array(jax.devices()[:devices]), (sharding.AXIS,), axis_types=(AxisType.Auto,))
    patch.setattr(sharding, "mesh", lambda: mesh)


# ---- what it computes


def test_another_loss_counts_from_its_step_on(capsys):
    own = Quadratic()

    def doubled(parameters, extras, batch, key):
        value, (figures, extras) = own.loss(parameters, extras, batch, key)
        return 2 * value, (figures | {"loss": 2 * value}, extras)

    steps = steps_of_epoch(COUNT, CONFIG) * CONFIG.epochs
    np.testing.assert_array_equal(run(own, then=(steps, doubled))[0], run(own)[0])
    np.testing.assert_array_equal(run(own, then=(0, doubled))[0], run(own, loss=doubled)[0])
    halfway = run(own, then=(steps // 2, doubled))
    losses = [event["loss"] for event in halfway[2].events]
    usual = [event["loss"] for event in run(own)[2].events]
    assert losses[: steps // 2] == usual[: steps // 2]
    assert losses[steps // 2] == pytest.approx(2 * usual[steps // 2])
    parts = [event["part"] for event in halfway[2].events]
    assert parts == [1] * (steps // 2) + [2] * (steps - steps // 2)
    assert "part" not in run(own)[2].events[0]
    said = capsys.readouterr().err
    assert f"part 1 of 2 {steps // 2}/{steps // 2} steps" in said
    assert f"part 2 of 2 {steps}/{steps} steps" in said


@pytest.mark.parametrize("devices", [1, 4])
def test_a_training_is_descent_over_the_batches_of_every_epoch_whatever_they_are_filled_up_to(
    devices, monkeypatch
):
    on(devices, monkeypatch)
    point, mean, keeper = run()
    expected = by_hand()
    np.testing.assert_allclose(point, expected[0], atol=1e-6)
    np.testing.assert_allclose(mean, expected[1], atol=1e-6)
    events = keeper.events
    np.testing.assert_allclose([event["loss"] for event in events], expected[2], atol=1e-6)
    assert [event["step"] for event in events] == list(range(STEPS))
    assert [event["epoch"] for event in events] == [step // 3 for step in range(STEPS)]
    assert set(events[0]) == {"step", "epoch", "loss", "distance", "gradient_norm"}


def test_without_checkpoints_it_comes_to_the_same_bytes_and_leaves_what_it_was_given(finished):
    problem = Quadratic().problem()
    parameters, extras = fit_loop(problem, CONFIG, SEED, "cap")
    np.testing.assert_array_equal(parameters["point"], finished[0])
    np.testing.assert_array_equal(extras["mean"], finished[1])
    np.testing.assert_array_equal(problem.parameters["point"], 0)


def test_another_seed_is_another_training(finished):
    assert not np.array_equal(run(seed=SEED + 1)[0], finished[0])


def test_the_optimiser_knows_the_number_of_all_steps():
    told = []
    run(optimiser=lambda steps: told.append(steps) or optax.sgd(RATE))
    assert told == [STEPS]


def test_no_epochs_leave_the_parameters_and_begin_the_rest():
    point, mean, keeper = run(config=dataclasses.replace(CONFIG, epochs=0))
    np.testing.assert_array_equal(point, 0)
    np.testing.assert_array_equal(mean, 0.5)
    assert not keeper.events


# ---- which samples, when


def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own():
    orders = [order_of_epoch(20, 3, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert order_of_epoch(20, 4, 0).tolist() != orders[0]
    assert order_of_epoch(20, 3, 1).tolist() == orders[1]


def test_batches_follow_the_order_of_their_epoch_and_the_last_one_is_smaller():
    quadratic = Quadratic()
    run(quadratic)
    assert [len(chosen) for chosen, _, _ in quadratic.asked] == [3, 3, 2] * 3
    assert [epoch for _, _, epoch in quadratic.asked] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(size == 3 for _, size, _ in quadratic.asked)
    for epoch in range(3):
        seen = [sample for chosen, _, of in quadratic.asked if of == epoch for sample in chosen]
        assert seen == order_of_epoch(COUNT, SEED, epoch).tolist()


def test_whole_batches_leave_the_last_samples_of_an_epoch_out():
    quadratic = Quadratic()
    point, mean, keeper = run(quadratic, config=WHOLE)
    expected = by_hand(WHOLE)
    np.testing.assert_allclose(point, expected[0], atol=1e-6)
    np.testing.assert_allclose(mean, expected[1], atol=1e-6)
    assert len(keeper.events) == 6
    assert all(len(chosen) == 3 for chosen, _, _ in quadratic.asked)
    assert quadratic.asked[1][0] == order_of_epoch(COUNT, SEED, 0)[3:6].tolist()


@pytest.mark.parametrize(
    ("samples", "config", "steps"),
    [(8, CONFIG, 3), (8, WHOLE, 2), (9, CONFIG, 3), (9, WHOLE, 3), (2, CONFIG, 1), (2, WHOLE, 1)],
)
def test_an_epoch_has_at_least_one_step(samples, config, steps):
    assert steps_of_epoch(samples, config) == steps


def test_fewer_samples_than_a_batch_are_one_batch_even_where_batches_are_whole():
    quadratic = Quadratic()
    quadratic.data = quadratic.data[:2]
    run(quadratic, config=WHOLE)
    assert [sorted(chosen) for chosen, _, _ in quadratic.asked] == [[0, 1]] * 3


def test_each_batch_is_read_once_in_a_thread_while_the_step_before_it_is_computed():
    quadratic, threads = Quadratic(), set()
    read, done = quadratic.batch, []

    class Watching(Keeper):
        def record(self, event):
            super().record(event)
            done.append(len(quadratic.asked))

    def batch(*arguments):
        threads.add(threading.current_thread())
        return read(*arguments)

    run(quadratic, Watching(), batch=batch)
    assert len(quadratic.asked) == STEPS
    assert threading.main_thread() not in threads
    # After step k at most its own batch, those before and the next were asked for.
    assert all(asked <= min(step + 2, STEPS) for step, asked in enumerate(done))


def test_a_stopped_run_has_read_one_batch_ahead_at_most():
    quadratic = Quadratic()
    with pytest.raises(Stopped):
        run(quadratic, Keeper(stop=2))
    assert len(quadratic.asked) <= 4


def test_a_picture_that_cannot_be_read_ends_the_training_with_its_own_message():
    quadratic = Quadratic()
    read = quadratic.batch

    def batch(chosen, size, epoch):
        if epoch == 1:
            raise UserError("x.png: not readable")
        return read(chosen, size, epoch)

    keeper = Keeper()
    with pytest.raises(UserError, match="^x.png: not readable$"):
        run(quadratic, keeper, batch=batch)
    assert len(keeper.events) >= 2


# ---- before each epoch


def test_each_epoch_but_the_first_begins_with_what_is_made_of_the_state():
    seen = []

    def again(parameters, extras, epoch):
        seen.append((epoch, np.array(parameters["point"]), np.array(extras["mean"])))
        return {"mean": extras["mean"] * np.float32(2)}

    point, mean, keeper = run(each_epoch=again)
    assert [epoch for epoch, _, _ in seen] == [1, 2]
    states = {int(state["step"]): state for state in keeper.states}
    for epoch, own, extras in seen:
        np.testing.assert_array_equal(own, states[3 * epoch]["parameters"]["point"])
        np.testing.assert_array_equal(extras, states[3 * epoch]["extras"]["mean"])
    expected = by_hand(each_epoch=lambda mean, epoch: 2 * mean)
    np.testing.assert_allclose(mean, expected[1], atol=1e-6)
    np.testing.assert_allclose(point, expected[0], atol=1e-6)


# ---- stopping and going on


def test_a_state_is_kept_at_the_start_and_after_every_epoch(finished):
    assert [int(state["step"]) for state in finished[2].states] == [0, 3, 6, 9]
    assert set(finished[2].states[0]) == {"parameters", "optimizer", "extras", "step"}
    np.testing.assert_array_equal(finished[2].states[0]["extras"]["mean"], 0.5)


def doubled(parameters, extras, epoch):
    return {"mean": extras["mean"] * np.float32(2)}


@pytest.mark.parametrize("each_epoch", [None, doubled])
def test_stopped_after_any_step_it_goes_on_to_the_same_bytes(each_epoch):
    expected = run(each_epoch=each_epoch)
    for stop in range(STEPS):
        quadratic, keeper = Quadratic(), Keeper(stop)
        with pytest.raises(Stopped, match=f"^training cap: stopped after step {stop}$"):
            run(quadratic, keeper, each_epoch=each_epoch)
        assert int(keeper.states[-1]["step"]) == stop + 1
        keeper.stop = None
        quadratic.asked.clear()
        assert_same(run(quadratic, keeper, each_epoch=each_epoch), expected)
        assert quadratic.begun == 1
        assert len(quadratic.asked) == STEPS - stop - 1


def test_killed_at_any_time_it_goes_on_from_its_last_state_to_the_same_bytes(finished):
    for state in finished[2].states:
        keeper = Keeper()
        keeper.states = [state]
        keeper.events = finished[2].events[: int(state["step"])]
        assert_same(run(keeper=keeper), finished)


# ---- what goes wrong


def test_a_loss_that_is_no_number_stops_at_its_step_with_its_samples_and_keeps_the_last_good_state():
    quadratic, keeper = Quadratic(), Keeper()
    read, good = quadratic.batch, quadratic.data
    bad = good.copy()
    bad[order_of_epoch(COUNT, SEED, 1)[4]] = np.nan  # in the second batch of the second epoch

    def batch(chosen, size, epoch):
        quadratic.data = bad if epoch else good
        return read(chosen, size, epoch)

    with pytest.raises(NotFinite) as error:
        run(quadratic, keeper, batch=batch)
    names = ", ".join(f"sample{i}" for i in order_of_epoch(COUNT, SEED, 1)[3:6])
    assert str(error.value).startswith(
        f"training cap: step 4 has loss nan and gradient norm nan, on {names}; the last good state is kept"
    )
    assert "\n" not in str(error.value)
    assert [event["step"] for event in keeper.events] == [0, 1, 2, 3]
    assert int(keeper.states[-1]["step"]) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(keeper.states[-1]))


def test_the_thread_that_reads_ahead_ends_with_the_error():
    reading = []

    def batch(chosen, size, epoch):
        reading.append(threading.current_thread())
        return {"x": jnp.full((size, WIDTH), jnp.nan), "weight": jnp.ones(size)}

    with pytest.raises(NotFinite) as kept:  # its traceback holds the frames of the loop, as pytest's does
        run(batch=batch)
    assert reading
    assert not any(thread.is_alive() for thread in reading)
    assert kept.tb is not None


def test_a_gradient_that_is_no_number_stops_too():
    def loss(parameters, extras, batch, key):
        value = jnp.sum(jnp.sqrt(parameters["point"])) + jnp.sum(batch["x"] * 0)
        return value, ({"loss": value}, extras)

    with pytest.raises(NotFinite, match=r"step 0 has loss 0.0 and gradient norm inf, on sample\d, sample\d"):
        run(loss=loss)
