"""Does the decision keep its false-alarm rate? Good samples of a rendered rig, split again and again.

    python scripts/render_rig.py --output data/rig-good --families flange --train 100 --test-normal 200 \\
        --test-defective 40 --size 128
    python scripts/measure_decision.py --config configs/demo.py:patchcore --workdir runs/decision \\
        --config.data.root=data/rig-good --config.data.image_size=128 --config.decision.held_out=0.4

For each seed banks are filled with the training samples that are not held out, the held-out ones are scored,
and then samples that the seed has not seen, by the library's own split, scores and decisions. Twice:

- random lists: which good samples are for training and which for testing is drawn anew. Then the number of
  false alarms of a seed follows the beta-binomial law whatever the images are, seeds are independent, and
  the interval of their mean is exact. It finds a leak, or a wrong rank; it can't find lists that differ.
- the data set's own lists: the test samples are the same for all seeds, which are so not independent. The
  interval is that of simulated scores, drawn independently for all samples and scored by one and the same
  model, split by the same seeds.

Writes <workdir>/decision.json and prints it.

exit codes: 0 measured; 2 a mistake in the command, the config or the data; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from mvead_jax.commands.parsing import Parser, add_run
from mvead_jax.config.io import load_config
from mvead_jax.config.schema import Config
from mvead_jax.runtime.errors import UserError, run

if TYPE_CHECKING:  # JAX takes seconds to load, and --help should not
    from mvead_jax.backbones.base import Backbone
    from mvead_jax.data.records import DatasetIndex, Sample
    from mvead_jax.decision.decide import Decision
    from mvead_jax.geometry.masks import EpipolarKeys


log = logging.getLogger("mvead_jax")
SEEDS = 20
SIMULATED = 4000


def main() -> None:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_run(parser)
    given, fields = parser.parse_with_fields()
    config, workdir = load_config(given.config, fields), given.workdir

    from mvead_jax.runtime.files import write_json

    if not config.decision.held_out:
        raise UserError("config decision.held_out=0: hold out a share of the training samples, as 0.4")
    found = {"target": config.decision.false_alarms, "held_out_share": config.decision.held_out}
    for own_lists in (False, True):
        name = "own lists" if own_lists else "random lists"
        found[name] = measure(config, workdir, own_lists)
        print(told(name, found[name]))
    write_json(workdir / "decision.json", found)


def measure(config: Config, workdir: Path, own_lists: bool) -> dict[str, Any]:
    """Rates of all seeds of one category, and the interval in which the mean of false alarms must lie."""
    from mvead_jax.decision.conformal import allowed_above

    pool = _pool(config, workdir)
    good = np.array([at for at, one in enumerate(pool.samples) if one.label != 1])
    bad = np.array([at for at, one in enumerate(pool.samples) if one.label == 1], int)
    seeds, count, new = [], 0, len(good) - pool.trained
    for seed in range(SEEDS):
        order = good if own_lists else np.random.default_rng(seed).permutation(good)
        own, new_good = order[: pool.trained], order[pool.trained :]
        count, decisions = _decisions(config, pool, seed, own, {"good": new_good, "bad": bad})
        fails = {word: sum(one.decision == "fail" for one in made) for word, made in decisions.items()}
        low = [min(view.p_value for view in one.views) for one in decisions["good"]]
        any_view = int(np.sum(np.array(low) <= config.decision.false_alarms))
        counts = {"false_alarms": fails["good"], "any_view": any_view, "detected": fails["bad"]}
        seeds.append({"seed": seed} | counts)
        log.info("seed %d: %s", seed, seeds[-1])
    above = allowed_above(count, config.decision.false_alarms)
    bounds = _simulated(pool.trained, count, new, above) if own_lists else _exact(new, count, above)
    return {
        "learned": pool.trained - count,
        "held_out": count,
        "good": new,
        "defective": len(bad),
        "expected": above / (count + 1),
        "interval": [float(bound) for bound in bounds],
        "mean": float(np.mean([one["false_alarms"] for one in seeds]) / new),
        "any_view": float(np.mean([one["any_view"] for one in seeds]) / new),
        "detected": float(np.mean([one["detected"] for one in seeds]) / max(len(bad), 1)),
        "seeds": seeds,
    }


@dataclass(frozen=True)
class Pool:
    """All samples of a category, whichever list they stand in.

    Attributes:
      features: [S,V,h,w,D] of `samples` by tap. trained: how many the training list has.
    """

    index: DatasetIndex
    samples: tuple[Sample, ...]
    trained: int
    features: Mapping[str, np.ndarray]
    keys: Mapping[str, EpipolarKeys]
    backbone: Backbone

    def part(self, rows: Iterable[int]) -> DatasetIndex:
        """Some of the samples, on the axis of views of all."""
        return replace(self.index, samples=tuple(self.samples[row] for row in rows))

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The features of some of the samples."""
        return {tap: own[rows] for tap, own in self.features.items()}


def _pool(config: Config, workdir: Path) -> Pool:
    """The data set without anything held out. Raises UserError unless it has one category."""
    from mvead_jax.jobs.estimate_geometry import estimate_geometries, uses_geometry
    from mvead_jax.jobs.inputs import load_method_backbone, open_index, split_features
    from mvead_jax.jobs.workdir import Job

    plain = replace(config, decision=replace(config.decision, held_out=0.0))
    index = open_index(plain)
    if len(index.categories) != 1:
        raise UserError(f"{config.data.root}: name one category by --config.data.categories")
    backbone = load_method_backbone(config)
    parts = [index.select(split=split) for split in ("train", "test")]
    stores = [split_features(plain, part, backbone, workdir) for part in parts]
    features = {tap: np.concatenate([own[tap][:] for own in stores]) for tap in backbone.taps}
    samples = tuple(sample for part in parts for sample in part.samples)
    geometries = estimate_geometries(plain, index, workdir) if uses_geometry(plain) else {}
    job = Job(plain, workdir, backbone, geometries)
    keys = job.keys(job.method("", index.views, index.categories), index.categories)
    return Pool(index, samples, len(parts[0]), features, keys, backbone)


def _decisions(
    config: Config, pool: Pool, seed: int, training: np.ndarray, new: Mapping[str, np.ndarray]
) -> tuple[int, dict[str, list[Decision]]]:
    """How many training samples one seed holds out, and its decisions on new samples.

    Args:
      training: rows of the pool, of which some are held out. new: rows of it by a word.
    """
    from mvead_jax.decision.decide import decide
    from mvead_jax.decision.split import held_out_ids
    from mvead_jax.jobs.decision import score_held_out
    from mvead_jax.methods.base import RunContext, Spec, TrainData
    from mvead_jax.postprocess.statistics import MOST_SAMPLES, ScoreStatistics
    from mvead_jax.scoring.scorer import Inputs, Model, Scorer

    (category,) = pool.index.categories
    names = {f"{pool.samples[row].split}/{pool.samples[row].id}": row for row in training}
    drawn = held_out_ids(tuple(names), category, config.decision.held_out, seed)
    held = np.array(sorted(names[name] for name in drawn))
    learned = np.setdiff1d(training, held)
    index = pool.part(learned)
    data = TrainData(index, pool.of(learned), pool.keys, pool.backbone)
    method = config.build(Spec.of(index.views, index.categories, pool.backbone))
    state = method.fit(data, RunContext(seed))
    normal = method.leave_one_out(state, data, np.arange(min(len(learned), MOST_SAMPLES)))
    model = Model(method, state, ScoreStatistics.of(normal))
    held_out = pool.part(held)
    inputs = Inputs(pool.of(held), held_out.present())
    calibration = score_held_out(config, model, held_out, inputs, pool.keys, {category: 0})[category]
    scorer = Scorer(model, category, pool.keys[category], config.score)
    made = {}
    for word, rows in new.items():
        present = pool.part(rows).present()
        made[word] = [
            decide(calibration, scores, has, config.decision.false_alarms)
            for found in scorer.score(Inputs(pool.of(rows), present), np.arange(len(rows)))
            for scores, has in zip(found.views, present[found.rows], strict=True)
        ]
    return len(held), made


def _exact(new: int, count: int, above: int) -> tuple[float, float]:
    """95 % of the mean rate of independent seeds: the sum of their beta-binomial counts."""
    one = stats.betabinom(new, above, count + 1 - above).pmf(np.arange(new + 1))
    total = np.ones(1)
    for _ in range(SEEDS):
        total = np.convolve(total, one)
    below = np.cumsum(total)
    return np.searchsorted(below, 0.025) / (SEEDS * new), np.searchsorted(below, 0.975) / (SEEDS * new)


def _simulated(trained: int, count: int, new: int, above: int) -> tuple[float, float]:
    """95 % of the mean rate of seeds that split the same scores."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(SIMULATED):
        scores = rng.random(trained + new)
        rates = []
        for _ in range(SEEDS):
            held = rng.permutation(scores[:trained])[:count]
            rates.append((scores[trained:] > np.sort(held)[-above]).mean())
        means.append(np.mean(rates))
    return tuple(np.quantile(means, (0.025, 0.975)))


def told(name: str, found: dict) -> str:
    """Plain lines."""
    low, high = (100 * bound for bound in found["interval"])
    alarms = " ".join(str(one["false_alarms"]) for one in found["seeds"])
    return (
        f"{name}: {found['learned']} samples to learn from, {found['held_out']} held out, "
        f"{found['good']} good and {found['defective']} defective new ones\n"
        f"  false alarms {100 * found['mean']:.2f} %, mean of {SEEDS} seeds; expected "
        f"{100 * found['expected']:.2f} %, 95 % of such means lie in {low:.2f} to {high:.2f}\n"
        f"  of each seed: {alarms}\n"
        f"  found {100 * found['detected']:.1f} % of the defective; {100 * found['any_view']:.1f} % of the "
        "good have some view with p at most the target"
    )


if __name__ == "__main__":
    run(main)
