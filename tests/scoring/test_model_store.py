"""The state of any method on disk: it comes back as it was, or one line says what is wrong with the file."""

import json
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from safetensors.numpy import load_file, save_file

from mvead_jax.bank.fill import Bank
from mvead_jax.bank.nearest import ShardedRows
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import (
    STATE,
    bank_sizes,
    map_rows,
    named_leaves,
    read_facts,
    read_state,
    with_leaves,
    write_state,
)

FACTS = {"views": ["C1", "C2"], "backbone": "digest"}


def state_of(rows=(5, 2), width=3):
    """A network, a statistic, and banks of which one lies deep."""
    rng = np.random.default_rng(0)
    banks = {
        f"C{at + 1}": Bank(rng.normal(size=(count, width)).astype("f4"), np.arange(count, dtype="i4") - 1)
        for at, count in enumerate(rows)
    }
    return {
        "fusion": {"query": {"kernel": rng.normal(size=(4, 3)).astype("f4"), "bias": np.zeros(3, "f4")}},
        "steps": np.int32(7),
        "half": rng.normal(size=2).astype("f2"),
        "banks": banks,
    }


def like_of(**changes):
    """The shapes of `state_of` as a method tells them before training."""
    like = jax.eval_shape(
        lambda: {
            "fusion": {"query": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}},
            "steps": jnp.int32(0),
            "half": jnp.zeros(2, jnp.float16),
            "banks": {name: Bank.before_filling(3) for name in ("C1", "C2")},
        }
    )
    return like | changes


def rows_of(bank):
    return bank.rows.values[: bank.rows.count] if isinstance(bank.rows, ShardedRows) else bank.rows


def assert_is(found, expected):
    found, expected = named_leaves(found), named_leaves(expected)
    assert sorted(found) == sorted(expected)
    for name, leaf in expected.items():
        if isinstance(leaf, Bank):
            np.testing.assert_array_equal(rows_of(found[name]), leaf.rows)
            np.testing.assert_array_equal(found[name].sample, leaf.sample)
            assert (rows_of(found[name]).dtype, found[name].sample.dtype) == (np.float32, np.int32)
        else:
            np.testing.assert_array_equal(found[name], leaf)
            assert found[name].dtype == leaf.dtype


@pytest.fixture
def folder(tmp_path):
    write_state(tmp_path / "cap", state_of(), FACTS)
    return tmp_path / "cap"


def on_one_device(patch):
    mesh = Mesh(np.array(jax.devices()[:1]), (sharding.AXIS,), axis_types=(AxisType.Auto,))
    patch.setattr(sharding, "mesh", lambda: mesh)


@pytest.mark.parametrize("devices", [1, 4])
def test_state_and_facts_come_back_on_every_number_of_devices(folder, devices, monkeypatch):
    if devices == 1:
        on_one_device(monkeypatch)
    assert sharding.mesh().size == devices
    found = read_state(folder, like_of())
    assert_is(found, state_of())
    assert read_facts(folder) == FACTS
    assert isinstance(found["banks"]["C1"].rows, ShardedRows if devices > 1 else jax.Array)
    assert len(found["fusion"]["query"]["kernel"].devices()) == devices


def test_a_device_holds_its_share_of_the_rows_only(folder):
    for count, bank in zip((5, 2), read_state(folder, like_of())["banks"].values(), strict=True):
        shares = [shard.data.shape for shard in bank.rows.values.addressable_shards]
        assert shares == [(-(-count // 4), 3)] * 4
        assert bank.rows.count == count


def test_a_state_itself_tells_its_shapes_too_whatever_rows_its_banks_have(folder):
    other = state_of(rows=(1, 9))
    assert_is(read_state(folder, other), state_of())


def test_writing_tells_the_rows_of_each_bank_and_so_does_the_file(folder):
    assert write_state(folder, state_of(), FACTS) == {"banks/C1": 5, "banks/C2": 2}
    assert bank_sizes(folder) == {"banks/C1": (5, 3), "banks/C2": (2, 3)}
    without = {"mean": np.zeros(3, "f4")}
    assert write_state(folder, without, FACTS) == {}
    assert bank_sizes(folder) == {}
    assert_is(read_state(folder, without), without)


def test_the_same_state_gives_the_same_bytes(folder, tmp_path):
    state = state_of()
    state = {name: state[name] for name in reversed(state)} | {
        "banks": dict(reversed(state["banks"].items()))
    }
    write_state(tmp_path / "again", jax.tree.map(jnp.asarray, state), dict(reversed(FACTS.items())))
    assert (folder / STATE).read_bytes() == (tmp_path / "again" / STATE).read_bytes()
    assert read_facts(tmp_path / "again") == FACTS


def test_an_array_that_lies_in_another_order_comes_back(folder):
    kernel = np.arange(12, dtype="f4").reshape(3, 4).T
    rows = np.arange(30, dtype="f4").reshape(5, 6)[:, ::2]
    state = state_of()
    state["fusion"]["query"]["kernel"], state["banks"]["C1"] = kernel, Bank(rows, state["banks"]["C1"].sample)
    write_state(folder, state, FACTS)
    assert_is(read_state(folder, like_of()), state)


def test_files_of_an_earlier_training_and_leftovers_of_a_killed_writer_go(folder):
    for name in (".tmpAbC123", "decision.safetensors", "score_statistics.json"):
        (folder / name).write_bytes(b"half")
    write_state(folder, state_of(), FACTS)
    assert sorted(path.name for path in folder.iterdir()) == ["facts.json", STATE]


# ---- what is refused


def edited(folder, change):
    """Another file, with what `change` makes of its tensors."""
    tensors = load_file(folder / STATE)
    change(tensors)
    save_file(tensors, folder / STATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(extra=np.zeros(1, "f4")), "it has extra"),
        (lambda t: t.update({"banks/C3/rows": np.zeros((1, 3), "f4")}), "it has banks/C3/rows"),
        (lambda t: t.pop("fusion/query/bias"), "it lacks fusion/query/bias"),
        (lambda t: t.pop("banks/C2/rows"), "it lacks banks/C2/rows"),
        (lambda t: t.pop("banks/C2/sample"), "it lacks banks/C2/sample"),
        (
            lambda t: t.update({"fusion/query/bias": np.zeros(4, "f4")}),
            r"fusion/query/bias is float32 \(4,\), expected float32 \(3,\)",
        ),
        (
            lambda t: t.update({"fusion/query/bias": np.zeros(3, "f2")}),
            r"fusion/query/bias is float16 \(3,\), expected float32 \(3,\)",
        ),
        (
            lambda t: t.update(steps=np.zeros(1, "i4")),
            r"steps is int32 \(1,\), expected int32 \(\)",
        ),
        (
            lambda t: t.update({"banks/C1/rows": np.zeros((5, 4), "f4")}),
            "banks/C1 is 4 wide, expected 3",
        ),
        (
            lambda t: t.update({"banks/C1/rows": np.zeros((5, 3), "f2")}),
            r"banks/C1 holds F16 \[5, 3\], not rows of features",
        ),
        (
            lambda t: t.update({"banks/C1/rows": np.zeros((0, 3), "f4")}),
            r"banks/C1 holds F32 \[0, 3\], not rows of features",
        ),
        (
            lambda t: t.update({"banks/C1/rows": np.zeros(15, "f4")}),
            r"banks/C1 holds F32 \[15\], not rows of features",
        ),
        (
            lambda t: t.update({"banks/C1/sample": np.zeros(4, "i4")}),
            r"banks/C1/sample is int32 \(4,\), expected int32 \(5,\)",
        ),
        (
            lambda t: t.update({"banks/C1/sample": np.zeros(5, "f4")}),
            r"banks/C1/sample is float32 \(5,\), expected int32 \(5,\)",
        ),
    ],
)
def test_a_file_that_is_not_a_state_like_this_is_refused_by_name(folder, change, message):
    edited(folder, change)
    with pytest.raises(UserError, match=rf"state.safetensors: not the state .*\({message}\); train") as error:
        read_state(folder, like_of())
    assert "\n" not in str(error.value)


def test_a_bank_where_the_method_wants_an_array_or_the_other_way_is_refused(folder):
    with pytest.raises(UserError, match=r"\(it lacks banks/C1\)"):
        read_state(folder, like_of(banks={"C1": np.zeros(3, "f4"), "C2": np.zeros(3, "f4")}))
    with pytest.raises(UserError, match=r"\(it has half\)"):
        read_state(folder, like_of(half=Bank.before_filling(3)))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def header_of(path, text):
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 400)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: cut(path, 0),
        lambda path: cut(path, 100),
        lambda path: cut(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: header_of(path, b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1]}}'),
        lambda path: header_of(path, b"[" * 300),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["gone", "empty", "header cut", "cut", "no safetensors", "sizes that lie", "no JSON", "folder"],
)
def test_a_damaged_file_is_named_by_all_that_read_it(folder, damage):
    damage(folder / STATE)
    for read in (lambda: read_state(folder, like_of()), lambda: bank_sizes(folder)):
        with pytest.raises(UserError, match=r"cap/state.safetensors: not the state .*; train again") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_facts_that_are_missing_or_no_json_are_named(folder, damage):
    damage(folder / "facts.json")
    with pytest.raises(UserError, match=r"cap/facts.json: .*what a model was trained with; train again"):
        read_facts(folder)


# ---- banks that stay on the disk


def test_mapped_rows_are_those_of_their_bank_and_are_not_written_to(folder):
    for name, bank in state_of()["banks"].items():
        rows = map_rows(folder / STATE, f"banks/{name}")
        np.testing.assert_array_equal(rows, bank.rows)
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 1
    with pytest.raises(KeyError, match="banks/C3/rows"):
        map_rows(folder / STATE, "banks/C3")


def resident(path):
    """Bytes of a mapped file that are in memory."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            ours = rest[-1] == str(path)
        elif ours and first == "Rss:":
            found += 1024 * int(rest[0])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mapped memory")
def test_rows_of_a_mapped_bank_take_the_memory_of_these_rows(tmp_path):
    """1.2 GB in a file of holes; 4 MB of it are read."""
    rows, width = 300_000, 1000
    header = {
        "banks/C1/rows": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    }
    text = json.dumps(header | {"__metadata__": {"x": "y"}}).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / STATE
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * rows * width)
    tracemalloc.start()
    try:
        mapped = map_rows(path, "banks/C1")
        assert mapped.shape == (rows, width)
        assert mapped[200_000:201_000].sum() == 0
        assert 4 * 1000 * width <= resident(path) < 50_000_000
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


# ---- paths of leaves


def test_leaves_by_their_path_make_the_state_again():
    state = state_of()
    leaves = named_leaves(state)
    assert list(leaves) == [
        "fusion/query/kernel",
        "fusion/query/bias",
        "steps",
        "half",
        "banks/C1",
        "banks/C2",
    ]
    assert_is(with_leaves(like_of(), leaves), state)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_state(tmp_path / "file" / "cap", state_of(), FACTS)
