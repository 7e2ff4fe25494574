"""The legacy PyTorch reader: exact on what torch writes, and one line of refusal on everything else."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from mvead_jax.backbones.torch_pickle import _MAGIC as MAGIC
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.runtime.errors import UserError

SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
FLOAT, LONG = "ctorch\nFloatStorage\n", "ctorch\nLongStorage\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def plain(value) -> bytes:
    """Opcodes that push a value of plain types."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(key, count, offset, shape, strides, storage=FLOAT) -> bytes:
    """Opcodes that rebuild a tensor, as torch.save writes them."""
    reference = b"(" + plain("storage") + storage.encode() + plain(key) + plain("cpu") + plain(count) + b"NtQ"
    rest = plain(offset) + plain(shape) + plain(strides) + plain(False) + ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + rest + b"tR"


def state(items: dict[str, bytes]) -> bytes:
    """The pickle of a state dict, with the metadata attribute that torch gives it."""
    body = b"".join(plain(key) + value for key, value in items.items())
    attributes = b"}(" + plain("_metadata") + ORDERED_DICT + b"u"
    return b"\x80\x02" + ORDERED_DICT + b"(" + body + b"u" + attributes + b"b."


def legacy_file(state_pickle: bytes, storages: dict[str, np.ndarray], counts: dict[str, int] | None = None):
    head = [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, SYSTEM)]
    keys = pickle.dumps(list(storages), protocol=2)
    counts = {key: array.size for key, array in storages.items()} | (counts or {})
    data = [struct.pack("<q", counts[key]) + array.tobytes() for key, array in storages.items()]
    return b"".join([*head, state_pickle, keys, *data])


WEIGHTS = np.arange(24, dtype=np.float32)
STEPS = np.array([7], np.int64)
TENSORS = {
    "whole": tensor("a", 24, 0, (24,), (1,)),
    "steps": tensor("b", 1, 0, (), (), LONG),
}
GOOD = legacy_file(state(TENSORS), {"a": WEIGHTS, "b": STEPS})


def one_tensor(*arguments, **options) -> bytes:
    return legacy_file(state({"w": tensor("a", *arguments, **options)}), {"a": WEIGHTS})


def test_arrays_come_back_exactly_with_their_types_and_the_order_of_the_file():
    arrays = parse_state_dict(GOOD, "good.pth")
    assert list(arrays) == ["whole", "steps"]
    np.testing.assert_array_equal(arrays["whole"], WEIGHTS, strict=True)
    np.testing.assert_array_equal(arrays["steps"], np.int64(7), strict=True)


def test_strides_and_offset_select_the_elements_and_the_result_is_contiguous():
    for offset, shape, strides in [(0, (4, 6), (1, 4)), (3, (2, 3), (10, 2)), (5, (1, 2), (999, 7))]:
        array = parse_state_dict(one_tensor(24, offset, shape, strides), "strided.pth")["w"]
        expected = [
            [WEIGHTS[offset + i * strides[0] + j * strides[1]] for j in range(shape[1])]
            for i in range(shape[0])
        ]
        np.testing.assert_array_equal(array, np.array(expected, np.float32), strict=True)
        assert array.flags.c_contiguous
        assert array.flags.aligned


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("position", range(5))
def test_a_foreign_name_in_any_of_the_pickles_is_refused_and_never_called(tmp_path, position):
    pickles = [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, SYSTEM)]
    pickles += [state(TENSORS), pickle.dumps(["a", "b"], protocol=2)]
    pickles[position] = pickle.dumps(Hostile(tmp_path / "touched"), protocol=2)
    with pytest.raises(UserError, match=r"hostile\.pth: it asks for \S*getattr") as refusal:
        parse_state_dict(b"".join(pickles), "hostile.pth")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "name", ["posix system", "torch load", "torch._utils _rebuild_parameter", "builtins eval"]
)
def test_only_the_named_globals_pass_even_when_their_modules_are_near(name):
    opcodes = "c{}\n{}\n".format(*name.split()).encode()
    with pytest.raises(UserError, match=name.replace(" ", r"\.")):
        parse_state_dict(legacy_file(b"\x80\x02" + opcodes + b".", {}), "near.pth")


def test_truncated_files_are_user_errors():
    for length in range(0, len(GOOD), 3):
        with pytest.raises(UserError, match=r"^cut\.pth: "):
            parse_state_dict(GOOD[:length], "cut.pth")


@pytest.mark.parametrize(
    "arguments",
    [
        (24, 0, (10**6, 10**6), (0, 0)),
        (24, 0, (25,), (1,)),
        (24, 20, (5,), (1,)),
        (24, 0, (4, 6), (6, 2)),
        (24, 24, (), ()),
        (24, -1, (2,), (1,)),
        (24, 0, (2,), (-1,)),
        (24, 0, (2, 2), (1,)),
        (25, 0, (24,), (1,)),
        (10**15, 0, (10**15,), (1,)),
    ],
    ids=str,
)
def test_sizes_that_the_bytes_do_not_bear_out_are_refused(arguments):
    with pytest.raises(UserError, match=r"^lying\.pth: "):
        parse_state_dict(one_tensor(*arguments), "lying.pth")


@pytest.mark.parametrize(
    "damaged",
    [
        GOOD + b"\0",
        legacy_file(state(TENSORS), {"a": WEIGHTS, "b": STEPS}, counts={"a": 23}),
        legacy_file(state(TENSORS), {"a": WEIGHTS}),
        legacy_file(state(TENSORS), {"a": WEIGHTS, "b": STEPS, "c": STEPS}),
        legacy_file(pickle.dumps({"a": 1}, protocol=2), {}),
        GOOD.replace(pickle.dumps(1001, protocol=2), pickle.dumps(1002, protocol=2), 1),
        GOOD.replace(pickle.dumps(MAGIC, protocol=2), pickle.dumps(MAGIC + 1, protocol=2)),
        GOOD.replace(b"little_endian\x71\x02\x88", b"little_endian\x71\x02\x89"),
        b"PK\x03\x04 a zip, the newer format of torch.save",
        b"",
    ],
    ids=[
        "bytes after the end", "count of a storage", "storage missing", "storage too many", "no tensors",
        "version", "magic number", "big endian", "zip", "empty",
    ],
)  # fmt: skip
def test_other_formats_and_contradictions_are_user_errors_of_one_line(damaged):
    with pytest.raises(UserError, match=r"^other\.pth: ") as refusal:
        parse_state_dict(damaged, "other.pth")
    assert "\n" not in str(refusal.value)
