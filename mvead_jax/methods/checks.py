"""What of a method can be checked and timed on a device by itself: asked for by the study of devices (room study)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Check:
    """A computation of float32 beside what it would be without rounding.

    Attributes:
      name: of the check.
      compute: what the device computes, by name.
      expected: the same in float64, on the host; called only where references are made.
      tolerance: of the largest difference, relative to the root mean square of the expected values. Whole numbers
        must be equal.
      seconds: about how long `compute` takes on two cores of a CPU, with its compilation.
    """

    name: str
    compute: Callable[[], Mapping[str, Any]]
    expected: Callable[[], Mapping[str, np.ndarray]]
    tolerance: float
    seconds: float


class Job(NamedTuple):
    """Something prepared, to be timed.

    Attributes:
      run: does it once and waits for the end.
      count: of units that it does.
      flops: of the matrix products in it; 0: not counted.
    """

    run: Callable[[], Any]
    count: int
    flops: float = 0


@dataclass(frozen=True)
class Workload:
    """A computation whose time counts.

    Attributes:
      name, unit: of what is timed, and of what it does many of.
      prepare: makes its arrays and compiles it.
      seconds: as of `Check`, for all of it.
    """

    name: str
    unit: str
    prepare: Callable[[], Job]
    seconds: float


@runtime_checkable
class ChecksParts(Protocol):
    """A method with parts of its own that are worth a check or a time."""

    def checks(self) -> Sequence[Check]:
        """Return the checks of its parts; of shapes of their own, whatever the model looks at."""

    def workloads(self) -> Sequence[Workload]:
        """Return what of it is to be timed."""
