"""Work divided over the CPU devices of one process: the same as on one. Processes: test_distributed.py."""

import argparse
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_realiad import write_realiad
from flax import nnx
from jax.sharding import AxisType, Mesh
from methods.mvead.normal_samples import D, N, V, samples_of, start
from training.keeper import Keeper

from mvead_jax.backbones.base import load_backbone
from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.bank.fill import Bank
from mvead_jax.bank.memory import MemoryBanks
from mvead_jax.config.schema import BackboneConfig, FeaturesConfig
from mvead_jax.data.realiad import load_index
from mvead_jax.features.cache import Extraction
from mvead_jax.features.extraction import extract
from mvead_jax.methods.base import PATCHES
from mvead_jax.methods.batches import training_batch
from mvead_jax.methods.mvead.attention import attend_batch
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.methods.mvead.pretraining import attend_all, pretrain
from mvead_jax.runtime import processes, sharding
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import _on_devices

S = 7
DEVICES = (1, 2, 4)


@pytest.fixture
def on(monkeypatch):
    """on(n): as if this process had n devices."""

    def choose(count):
        mesh = Mesh(np.array(jax.devices()[:count]), (sharding.AXIS,), axis_types=(AxisType.Auto,))
        monkeypatch.setattr(sharding, "mesh", lambda: mesh)
        monkeypatch.setattr(sharding, "local_mesh", lambda: mesh)
        return mesh

    return choose


def test_the_mesh_holds_all_devices_those_of_a_process_side_by_side():
    assert sharding.mesh().axis_names == ("data",)
    assert list(sharding.mesh().devices.flat) == jax.devices()
    assert sharding.is_first()


@pytest.mark.parametrize("count", DEVICES)
def test_a_batch_is_filled_up_to_a_multiple_of_the_devices(on, count):
    on(count)
    for size in range(1, 10):
        assert size <= sharding.padded(size) < size + count
        assert sharding.padded(size) % count == 0
        assert np.arange(sharding.padded(size))[sharding.own_rows(sharding.padded(size))].size >= size
        assert sharding.batch_of(size, 3) == (3 if count == 1 else min(3 * count, sharding.padded(size)))


@pytest.mark.parametrize("count", DEVICES)
def test_rows_go_to_the_devices_and_come_back(on, count):
    mesh = on(count)
    rows, shared = np.arange(24.0, dtype="f4").reshape(8, 3), np.float32(2)
    double = sharding.on_each_device(lambda shared, rows: rows * shared, mesh)
    found = jax.jit(double)(sharding.replicate(shared), sharding.place(rows))
    np.testing.assert_array_equal(sharding.to_host(found), 2 * rows)
    assert len(found.sharding.device_set) == count


def normal_samples():
    return samples_of(count=S, missing=((1, 2),), categories=2).normal()


@pytest.mark.parametrize("count", DEVICES)
def test_attended_features_are_those_of_one_device_bit_for_bit(on, count):
    samples = normal_samples()
    expected = np.stack(
        [
            attend_batch(
                *nnx.split(start()),
                samples.features[i][None],
                samples.present[i][None],
                samples.keys[samples.category[i]],
            )[0]
            for i in range(S)
        ]
    )
    on(count)
    np.testing.assert_array_equal(attend_all(start(), samples, np.arange(S), batch_size=2), expected)


def test_pre_training_draws_and_learns_the_same_on_any_number_of_devices(on):
    # Of five samples in a step, four devices hold eight: three weigh nothing. Random draws are those of the
    # sample's place in the batch; gradients are summed in another order, so float32 rounds differently.
    config = PretrainConfig(
        epochs=3, batch_size=5, learning_rate=1e-2, centers=3, negatives=2, mask_ratio=0.3
    )
    found = {}
    for count in DEVICES:
        on(count)
        keeper, trained = Keeper(), start()
        centers = pretrain(trained, normal_samples(), config, 0, keeper, "cap")
        found[count] = keeper.events, centers, jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(trained)))
    events, centers, parameters = found[1]
    for count in DEVICES[1:]:
        for one, other in zip(events, found[count][0], strict=True):
            assert other == pytest.approx(one, rel=1e-5), count
        np.testing.assert_array_equal(found[count][1], centers)
        for name in ("query", "value", "output"):
            np.testing.assert_allclose(
                found[count][2][name]["kernel"], parameters[name]["kernel"], rtol=0, atol=1e-4
            )


@pytest.mark.parametrize("count", DEVICES)
def test_a_batch_filled_up_holds_the_chosen_samples_first_and_the_rest_weighs_nothing(on, count):
    on(count)
    samples = normal_samples()
    batch = training_batch(samples.data, samples.present, samples.category, np.array([4, 2]), 3)
    size = sharding.padded(3)
    filled = np.resize([4, 2], size)
    np.testing.assert_array_equal(batch["weight"], np.arange(size) < 2)
    np.testing.assert_array_equal(batch["features"][PATCHES], samples.features[filled])
    np.testing.assert_array_equal(batch["present"], samples.present[filled])
    np.testing.assert_array_equal(batch["category"], samples.category[filled])
    assert "images" not in batch
    pixels = np.random.default_rng(0).normal(size=(S, V, 4, 4, 3)).astype("f4")
    seeing = dataclasses.replace(samples.data, images=lambda chosen: pixels[chosen])
    batch = training_batch(seeing, samples.present, samples.category, np.array([4, 2]), 3)
    np.testing.assert_array_equal(batch["images"], pixels[filled])


@pytest.mark.parametrize("count", DEVICES)
def test_distances_to_banks_are_those_of_one_device(on, count):
    rng = np.random.default_rng(1)
    rows = {f"C{v}": rng.normal(size=(41, D)).astype("f4") for v in range(V)}
    features = rng.normal(size=(4, V, 2, N // 2, D)).astype("f4")
    memory = MemoryBanks(tuple(rows), BankConfig(), BankScoreConfig())
    expected = memory.distances({name: Bank(own) for name, own in rows.items()}, features)
    on(count)
    banks = {name: Bank(_on_devices(own)) for name, own in rows.items()}
    found = memory.distances(banks, jnp.asarray(sharding.place(features)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "dinov2-small"])
def test_features_are_the_same_bytes_on_any_number_of_devices(on, tmp_path, name):
    root = write_realiad(tmp_path / "data", categories=("cap",), size=28, train=37, views=2, defective=0)
    index = load_index(root).select(split="train")  # three chunks, the last one smaller
    config = BackboneConfig(name=name, weights="random", block=2)
    size = 32 if name.startswith("eff") else 28
    found = {}
    for count in DEVICES:
        on(count)
        backbone = load_backbone(config, size, (PATCHES,))
        assert (backbone.on_devices is not None) == (count > 1)
        cache = tmp_path / f"cache{count}"
        extract(Extraction(index, backbone, FeaturesConfig(), cache, 12))
        found[count] = {path.name: path.read_bytes() for path in cache.glob("*.npy")}
    assert len(found[1]) == 3
    assert found[1] == found[2] == found[4]


# ---- one process has nobody to talk to


def test_alone_a_process_hears_itself():
    assert sharding.exchange("x") == ["x"]
    assert sharding.broadcast({"a": 1}) == {"a": 1}
    assert sharding.gathered(["a"]) == ["a"]
    assert sharding.own_share([1, 2, 3]) == [1, 2, 3]
    assert sharding.any_process(True)
    assert not sharding.any_process(False)
    sharding.same_in_all("x", "never")


def test_alone_an_error_is_raised_as_it_is():
    error = UserError("mine")
    with pytest.raises(UserError) as caught, sharding.shared_errors():
        raise error
    assert caught.value is error


# ---- what another process says, put in its mouth


@pytest.fixture
def hearing(monkeypatch):
    """hearing(answer): as process 1 of two, where process 0 says `answer` of what this one says."""

    def set_answer(answer):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        monkeypatch.setattr(sharding, "exchange", lambda text: [answer(text), text])

    return set_answer


def test_what_is_not_the_same_in_all_ends_all(hearing):
    hearing(lambda text: text)
    sharding.same_in_all("x", "never")
    hearing(lambda text: "y")
    with pytest.raises(UserError, match="the reason") as error:
        sharding.same_in_all("x", "the reason")
    assert error.value.in_all_processes


def test_an_error_of_one_process_is_raised_in_all_and_that_of_several_once(hearing):
    hearing(lambda text: "theirs")
    with pytest.raises(UserError, match="^theirs$") as error, sharding.shared_errors():
        pass
    assert error.value.in_all_processes
    with pytest.raises(UserError, match="^mine\ntheirs$"), sharding.shared_errors():
        raise UserError("mine")
    hearing(lambda text: text)
    with pytest.raises(UserError, match="^mine$"), sharding.shared_errors():
        raise UserError("mine")


def test_a_folder_that_is_not_the_first_process_s_is_refused(hearing, monkeypatch, tmp_path):
    monkeypatch.setattr(sharding, "_VISIBLE_SECONDS", 0)
    (tmp_path / "seen").touch()

    def first(token):
        return lambda text: json.dumps(token) if text.startswith('"') else text

    hearing(first("seen"))
    sharding.check_shared(tmp_path)
    hearing(first("not there"))
    with pytest.raises(
        UserError, match="process 1 does not see what process 0 writes there; put it on a file"
    ):
        sharding.check_shared(tmp_path)


def test_work_is_shared_out_item_by_item(hearing):
    hearing(lambda text: text)
    assert sharding.own_share(["a", "b", "c", "d", "e"]) == ["b", "d"]


# ---- flags


def parse(*arguments):
    parser = argparse.ArgumentParser(parents=[processes.flags()])
    return processes.from_flags(parser.parse_args(arguments))


def test_flags_say_who_takes_part():
    assert parse() is None
    assert dataclasses.astuple(parse("--distributed")) == (None, None, None)
    given = parse("--coordinator", "node1:9876", "--processes", "2", "--process", "1")
    assert dataclasses.astuple(given) == ("node1:9876", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("--processes 2", "--processes: also give --coordinator and --process, or --distributed alone"),
        ("--coordinator a:1 --processes 2", "--coordinator: also give --process,"),
        ("--coordinator a --processes 2 --process 0", "--coordinator a: expected HOST:PORT"),
        ("--coordinator a:b --processes 2 --process 0", "--coordinator a:b: expected HOST:PORT"),
        ("--coordinator a:70000 --processes 2 --process 0", "--coordinator a:70000: expected HOST:PORT"),
        ("--coordinator a:1 --processes 0 --process 0", "--processes 0: must be at least 1"),
        ("--coordinator a:1 --processes 2 --process 2", "--process 2: of 2 processes the numbers are 0 to 1"),
        ("--coordinator a:1 --processes 2 --process -1", "--process -1: of 2 processes"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_one_line(arguments, match):
    with pytest.raises(UserError, match=re.escape(match)) as error:
        parse(*arguments.split())
    assert "\n" not in str(error.value)


# ---- the guard


@pytest.mark.parametrize(
    ("lines", "passed", "fatal"),
    [
        (b"a\nb\n", b"a\nb\n", False),
        (b"[Gloo] Rank 0 is connected to 1 peer ranks. Expected\na\n", b"a\n", False),
        (b"E1122 13:34:37.2 7 coordination_service_agent.cc:289] Polled an error\na\n", b"a\n", False),
        (
            b"E1122 13:34:37.2 7 coordination_service.cc:1549] the following error: UNAVAILABLE: tasks:\n1\n"
            b"The tasks have crashed. [type.googleapis.com/tensorflow.CoordinationServiceError='']\na\n",
            b"a\n",
            False,
        ),
        (
            b"a\nF1122 13:34:37.2 7 client.h:7] Terminating process because the JAX distributed service "
            b"detected fatal errors. This\n*** Check failure stack trace: ***\n    @  0x7f25  absl::f()\n",
            b"a\n",
            True,
        ),
    ],
)
def test_a_guard_passes_on_all_but_the_notes_of_the_service(tmp_path, lines, passed, fatal):
    (tmp_path / "source").write_bytes(lines)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb") as target:
        relay = processes._Relay(source, target)
        relay.thread.join()
    assert (tmp_path / "target").read_bytes() == passed
    assert relay.fatal == fatal
