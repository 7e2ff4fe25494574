import json
import subprocess
import sys

import numpy as np
import pytest
from mvead_jax.bank.store import Manifest, map_banks, read_facts, read_samples, write_banks

from mvead_jax.runtime.errors import UserError

BANKS = {"C1": np.arange(12, dtype="f4").reshape(4, 3), "C2": np.ones((2, 3), "f4")}
FACTS = {"views": ["C1", "C2"], "backbone": "digest"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "banks" / "cap"
    write_banks(folder, BANKS, FACTS)
    Manifest(tmp_path).record(folder)
    return folder


def test_banks_and_facts_come_back(folder):
    banks = map_banks(folder)
    assert read_facts(folder) == FACTS
    assert list(banks) == ["C1", "C2"]
    for name, rows in BANKS.items():
        np.testing.assert_array_equal(banks[name], rows)


def test_the_same_banks_give_the_same_bytes(folder, tmp_path):
    write_banks(tmp_path / "again", BANKS, FACTS)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_banks_of_an_earlier_training_and_leftovers_of_a_killed_writer_go(folder, tmp_path):
    (folder / ".tmpAbC123").write_bytes(b"half")
    write_banks(folder, {"C1": BANKS["C1"]}, FACTS)
    manifest = Manifest(tmp_path)
    manifest.record(folder)
    assert [path.name for path in folder.iterdir()] == ["C1.safetensors"]
    Manifest(tmp_path).verify(folder)


def test_the_manifest_covers_what_it_has_seen(folder, tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.covers(folder)
    assert not manifest.covers(tmp_path / "banks" / "other")
    manifest.verify(folder)


@pytest.mark.parametrize("damage", ["flip", "delete", "swap", "add"])
def test_changed_banks_are_refused_by_name(folder, tmp_path, damage):
    one, two = folder / "C1.safetensors", folder / "C2.safetensors"
    if damage == "flip":
        data = bytearray(one.read_bytes())
        data[-1] ^= 1
        one.write_bytes(data)
    elif damage == "delete":
        one.unlink()
    elif damage == "swap":
        a, b = one.read_bytes(), two.read_bytes()
        one.write_bytes(b)
        two.write_bytes(a)
    else:
        (folder / "C3.safetensors").write_bytes(one.read_bytes())
    manifest = Manifest(tmp_path)
    assert manifest.covers(folder) == (damage == "add")
    with pytest.raises(
        UserError, match=r"C3.safetensors: not in" if damage == "add" else r"C1.safetensors: missing"
    ):
        manifest.verify(folder)


def test_untrained_folders_say_so(tmp_path):
    with pytest.raises(UserError, match="training has not finished"):
        Manifest(tmp_path).verify(tmp_path / "banks" / "cap")
    with pytest.raises(UserError, match="no memory banks"):
        map_banks(tmp_path)


def test_a_manifest_that_is_none_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest.json: not a manifest"):
        Manifest(tmp_path)


def test_a_file_that_is_no_bank_is_named(tmp_path):
    (tmp_path / "C1.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"C1.safetensors: not a memory bank"):
        map_banks(tmp_path)


def test_whose_rows_they_are_comes_back(tmp_path):
    samples = {"C1": np.array([0, 0, 3, -1]), "C2": np.array([1, 2])}
    write_banks(tmp_path, BANKS, FACTS, samples)
    found = read_samples(tmp_path)
    for name, own in samples.items():
        np.testing.assert_array_equal(found[name], own)
        assert found[name].dtype == np.int32
    np.testing.assert_array_equal(map_banks(tmp_path)["C1"], BANKS["C1"])


def test_mapped_banks_are_the_banks_and_are_not_written_to(folder):
    mapped = map_banks(folder)
    for name, rows in BANKS.items():
        np.testing.assert_array_equal(mapped[name], rows)
        with pytest.raises(ValueError, match="read-only"):
            mapped[name][0] = 1


def test_a_file_that_is_no_bank_is_not_mapped(tmp_path):
    (tmp_path / "C1.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"C1.safetensors: not a memory bank"):
        map_banks(tmp_path)


_SLICE = """
import resource, sys
from pathlib import Path
from mvead_jax.bank.store import map_banks

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = map_banks(Path(sys.argv[1]))["C1"]
part = rows[200_000:201_000].sum()
print(rows.shape[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_rows_of_a_mapped_bank_take_the_memory_of_these_rows(tmp_path):
    """1.2 GB in a file of holes; 4 MB of it are read."""
    rows, width = 300_000, 1000
    header = {"bank": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}}
    text = json.dumps(header | {"__metadata__": {"facts": "{}"}}).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "C1.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * rows * width)
    done = subprocess.run(
        [sys.executable, "-c", _SLICE, tmp_path], capture_output=True, text=True, check=True
    )
    found, kilobytes = map(int, done.stdout.split())
    assert found == rows
    assert kilobytes < 50_000
