import numpy as np
import pytest

from mvead_jax.bank.store import Manifest, read_banks, read_facts, write_banks
from mvead_jax.errors import UserError

BANKS = {"C1": np.arange(12, dtype="f4").reshape(4, 3), "C2": np.ones((2, 3), "f4")}
FACTS = {"views": ["C1", "C2"], "backbone": "digest"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "banks" / "cap"
    write_banks(folder, BANKS, FACTS)
    Manifest(tmp_path).record(folder)
    return folder


def test_banks_and_facts_come_back(folder):
    banks = read_banks(folder)
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
        read_banks(tmp_path)


def test_a_manifest_that_is_none_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest.json: not a manifest"):
        Manifest(tmp_path)


def test_a_file_that_is_no_bank_is_named(tmp_path):
    (tmp_path / "C1.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"C1.safetensors: not a memory bank"):
        read_banks(tmp_path)
