import numpy as np
import pytest

from mvead_jax.bank.store import Manifest, read_banks, write_banks
from mvead_jax.errors import UserError

BANKS = {"C1": np.arange(12, dtype="f4").reshape(4, 3), "C2": np.ones((2, 3), "f4")}
FACTS = {"views": ["C1", "C2"], "backbone": "digest"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "banks" / "cap"
    Manifest(tmp_path).add(*write_banks(folder, BANKS, FACTS))
    return folder


def test_banks_and_facts_come_back(folder):
    banks, facts = read_banks(folder)
    assert facts == FACTS
    assert list(banks) == ["C1", "C2"]
    for name, rows in BANKS.items():
        np.testing.assert_array_equal(banks[name], rows)


def test_the_same_banks_give_the_same_bytes(folder, tmp_path):
    for path in write_banks(tmp_path / "again", BANKS, FACTS):
        assert path.read_bytes() == (folder / path.name).read_bytes()


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


def test_a_file_that_is_no_bank_is_named(tmp_path):
    (tmp_path / "C1.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"C1.safetensors: not a memory bank"):
        read_banks(tmp_path)
