"""The time that a study may take: each item runs if it fits into what is left, and else is listed as not run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import Stopped

PASSED, FAILED, MEASURED, NOT_RUN = "passed", "failed", "measured", "not run"
Item = dict[str, Any]  # "name", "status", "seconds", "reason" of what failed or did not run, and figures


def not_run(name: str, reason: str) -> Item:
    """Return the item of what could not be done."""
    return {"name": name, "status": NOT_RUN, "seconds": 0.0, "reason": reason}


@dataclass
class Budget:
    """The time of a study.

    Attributes:
      seconds: that it may take. begin: when it began.
      expected, measured: of the items so far: how slow this machine is beside the one of the estimates.
      shown: say on stderr what was done.
    """

    seconds: float
    begin: float = field(default_factory=time.monotonic)
    expected: float = 0.0
    measured: float = 0.0
    shown: bool = True

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until a share of the budget is used up."""
        return share * self.seconds - (time.monotonic() - self.begin)

    def needed(self, expected: float) -> float:
        """Return about how long something takes here, that takes `expected` seconds on two cores of a CPU."""
        return expected * (self.measured / self.expected if self.expected else 1.0)

    def item(
        self, stage: str, name: str, expected: float, work: Callable[[], dict[str, Any]], share: float = 1.0
    ) -> Item:
        """Do an item if it fits, and say so; all processes must call, and the first decides.

        Args:
          expected: its seconds, as of `needed`.
          work: returns "status" and figures; an exception is a failure.
          share: of the budget, after which no item of this stage begins.
        """
        left, needed = self.left(share), self.needed(expected)
        if sharding.broadcast(needed > left):
            reason = f"it needs about {needed:.0f} s, and its stage had {max(left, 0):.0f} s left"
            found = not_run(name, reason)
        else:
            begin = time.monotonic()
            try:
                found = {"name": name, **work()}
            except Stopped:
                raise
            except Exception as error:  # whatever a device cannot do is a result of its study
                if jax.process_count() > 1:  # the others would wait for this one
                    raise
                found = {"name": name, "status": FAILED, "reason": f"{type(error).__name__}: {_line(error)}"}
            found["seconds"] = round(time.monotonic() - begin, 2)
            self.expected, self.measured = self.expected + expected, self.measured + found["seconds"]
        self._say(stage, found)
        return found

    def _say(self, stage: str, item: Item) -> None:
        if self.shown and sharding.is_first():
            spent = time.monotonic() - self.begin
            reason = f": {item['reason']}" if "reason" in item else f", {item['seconds']:.1f} s"
            print(
                f"{spent:4.0f} s, {max(self.left(), 0):.0f} s left: {stage}: {item['name']}: {item['status']}{reason}",
                file=sys.stderr,
                flush=True,
            )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
