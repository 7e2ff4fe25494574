"""Rows of features, read by slices; those that are no numbers are found in one cheap pass, named and refused.

One row that is NaN or infinite could hide good neighbours: its bounds are no numbers, so it is always among
the nearest candidates.
"""

from __future__ import annotations

from typing import Protocol

import jax
import numpy as np

from mvead_jax.runtime.errors import UserError

LARGEST = 1e18  # feature of which a search takes squares: a float32 for any number that a norm can have
_NUMBERS = 2**23  # looked at together: 32 MiB


class Rows(Protocol):
    """[n,D] that is read by slices: an array, a memory-mapped one, or anything that reads what it returns."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


class NotFinite(ValueError):
    """A row of features that a search can't work with.

    Attributes:
      row: its number. what: what is wrong with it.
    """

    def __init__(self, row: int, what: str):
        super().__init__(f"features of row {row} {what}")
        self.row, self.what = row, what


def check_rows(block: np.ndarray | jax.Array, first: int = 0, largest: float = LARGEST) -> None:
    """Raise NotFinite at the first of some rows with a feature that is NaN, infinite or too large.

    Args:
      block: [m,D], an array in memory or on a device, or a memory-mapped one, which is read.
      first: the number of its first row.
      largest: what no feature may reach.
    """
    if block.size == 0:
        return
    if isinstance(block, jax.Array):
        low, high = map(float, _extremes(block))
    else:
        low, high = float(block.min()), float(block.max())
    if low > -largest and high < largest:  # both are NaN if one number is
        return
    block = np.asarray(block)
    good = np.abs(block) < largest
    row = int(good.all(1).argmin())
    value = block[row][~good[row]][0]
    what = f"are larger than {largest:g} ({value:g})" if np.isfinite(value) else f"are not finite ({value})"
    raise NotFinite(first + row, what)


@jax.jit
def _extremes(block):
    return block.min(), block.max()


def check_finite(bank: Rows | jax.Array, name: str = "the bank") -> None:
    """Refuse a bank that holds a NaN, an infinite number or one beyond 1e18, in one pass over it.

    To be called once when a bank is loaded: the search itself runs under `jit`, where nothing can be refused.

    Args:
      bank: [M,D], an array in memory or on a device, or one that is read by slices (np.memmap).
      name: what to call it in the message, such as its file.

    Raises:
      UserError: names the bank and its first row of that kind.
    """
    try:
        if isinstance(bank, jax.Array):
            check_rows(bank)
        else:
            height = max(1, _NUMBERS // bank.shape[1])
            for start in range(0, bank.shape[0], height):
                check_rows(np.asarray(bank[start : start + height]), start)
    except NotFinite as error:
        raise UserError(f"{name}: {error}; the file is damaged, or its features were: train again") from None
