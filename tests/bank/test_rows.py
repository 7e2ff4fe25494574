import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.bank.nearest import check_finite
from mvead_jax.bank.search import rows as module
from mvead_jax.runtime.errors import UserError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "_NUMBERS", 100)


@pytest.mark.parametrize("row", [0, 19, 20, 56])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e19])
def test_a_bank_with_a_bad_number_is_refused_by_name_and_row(tmp_path, row, value):
    bank = np.random.default_rng(0).normal(size=(57, 5)).astype("f4")
    check_finite(bank)
    check_finite(jnp.asarray(bank))
    bank[row:, 2] = value  # the first of them is named
    np.save(tmp_path / "bank.npy", bank)
    what = "larger" if np.isfinite(value) else "not finite"
    for own in (bank, jnp.asarray(bank), np.load(tmp_path / "bank.npy", mmap_mode="r")):
        with pytest.raises(UserError, match=f"^top.safetensors: features of row {row} are {what}"):
            check_finite(own, "top.safetensors")


def test_each_row_is_read_once():
    read = []

    class Watched:
        shape = (57, 5)

        def __getitem__(self, rows):
            read.extend(range(57)[rows])
            return np.zeros((len(range(57)[rows]), 5), "f4")

    check_finite(Watched())
    assert read == list(range(57))
