"""The second question: does the same training and scoring give the same bytes again, on the same device?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from mvead_jax.backbones.base import Backbone
from mvead_jax.comparison.agreement import score_differences
from mvead_jax.comparison.two_runs import Tolerances
from mvead_jax.config.schema import Config
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.runtime import sharding
from mvead_jax.study.budget import FAILED, PASSED, Budget, Item
from mvead_jax.study.runs import STAGES, Outcome, one_run, study_config

RUNS = {"float32": 5, "bfloat16": 2}
TOLERANCE = Tolerances().score
_SHARE = {"float32": 0.68, "bfloat16": 0.8}
_FIRST, _AGAIN = 60.0, 25.0  # seconds of a run that compiles, and of one that does not


@dataclass
class Repeated:
    """What the study keeps of its runs.

    Attributes:
      folder: where they work; the processes share it.
      configs, backbones: by precision. outcomes: of the first run of each.
    """

    folder: Path
    configs: dict[str, Config] = field(default_factory=dict)
    backbones: dict[str, Backbone] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self, name: str, precision: str, seed: int = 0) -> Outcome:
        """Train and score once, in a folder of this name."""
        config = study_config(precision, seed)
        if precision not in self.backbones:
            self.backbones[precision] = load_method_backbone(config)
        return one_run(config, self.backbones[precision], self.folder / name)


def repeatability(budget: Budget, kept: Repeated) -> list[Item]:
    """Return an item for each precision: how many runs there were, and which stages were the same to the last bit.

    The runs after the first take its compiled programs, but for the last one of float32, which compiles anew: on a GPU
    another choice among kernels, or of a library, would show there.
    """
    found = []
    for precision, count in RUNS.items():

        def work(precision: str = precision, count: int = count) -> dict[str, Any]:
            with programs_kept(kept.folder / f"programs-{jax.process_index()}"):
                outcomes = list(_runs(budget, kept, precision, count))
            kept.outcomes[precision] = outcomes[0]
            return _summary(outcomes, anew=len(outcomes) == count and count > 2)

        least = _FIRST + (count > 1) * _AGAIN
        found.append(budget.item("repeatability", precision, least, work, _SHARE[precision]))
    return found


def _runs(budget: Budget, kept: Repeated, precision: str, count: int) -> Iterator[Outcome]:
    """Yield the outcomes of at least two runs, and of as many of `count` as fit."""
    for number in range(count):
        last = number == count - 1 and count > 2
        needed = budget.needed(_FIRST if last else _AGAIN)
        if number >= 2 and sharding.broadcast(needed > budget.left(_SHARE[precision])):
            return
        if last:
            jax.config.update("jax_enable_compilation_cache", False)
            jax.clear_caches()
        yield kept.run(f"{precision}-{number}", precision)


@contextmanager
def programs_kept(folder: Path) -> Iterator[None]:
    """While it lasts, compiled programs go into a folder, and are read from there."""
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    wanted = dict(zip(names, (str(folder), True, 0.0), strict=True))
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def relative_difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the largest difference of two lists of scores, by the median score of the first."""
    return score_differences(np.array(a), np.array(b))["relative_largest"]


def _summary(outcomes: Sequence[Outcome], anew: bool) -> dict[str, Any]:
    """Return what the runs have in common; a CPU must repeat its bytes, any device its scores within the tolerance."""
    first = outcomes[0]
    stages = {
        stage: {
            "digest": first.digests[stage],
            "equal": len({own.digests[stage] for own in outcomes}) == 1,
        }
        for stage in STAGES
    }
    floor = max(relative_difference(first.scores, own.scores) for own in outcomes)
    same = all(own.decisions == first.decisions for own in outcomes)
    differing = [stage for stage, own in stages.items() if not own["equal"]]
    found = {
        "status": PASSED,
        "runs": len(outcomes),
        "compiled_anew": anew,
        "stages": stages,
        "floor": floor,
        "same_decisions": same,
        "scores": first.scores,
        "decisions": first.decisions,
    }
    promised = jax.default_backend() == "cpu"
    if unreal := np.count_nonzero(~np.isfinite([own.scores for own in outcomes])):
        found |= {"status": FAILED, "reason": f"{unreal} scores are no finite numbers"}
    elif floor > TOLERANCE or not same or (promised and differing):
        what = f"not the same bytes in {', '.join(differing)}" if differing else "other decisions"
        found |= {"status": FAILED, "reason": f"{what}; scores differ by {floor:.2g} of their median"}
    return found
