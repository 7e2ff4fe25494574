"""Does the decision keep its false-alarm rate? Good samples of a rendered rig, split again and again.

    python scripts/render_rig.py --output data/rig-good --families flange --train 100 --test-normal 200 \\
        --test-defective 40 --size 128
    python scripts/measure_decision.py --config configs/demo.py:patchcore --workdir runs/decision \\
        --config.data.root=data/rig-good --config.data.image_size=128 --config.decision.held_out=0.4

For each seed banks are filled with the training samples that are not held out, the held-out ones are scored,
and then samples that the seed has not seen, by the library's own split, scores and decisions. Twice:

- random lists: which good samples are for training and which for testing is drawn anew. Then the number of
  false alarms of a seed follows the beta-binomial law whatever the pictures are, seeds are independent, and
  the interval of their mean is exact. It finds a leak, or a wrong rank; it can't find lists that differ.
- the data set's own lists: the test samples are the same for all seeds, which are so not independent. The
  interval is that of simulated scores, drawn independently for all samples and scored by one and the same
  model, split by the same seeds.

Writes <workdir>/decision.json and prints it.

exit codes: 0 measured; 2 a mistake in the command, the config or the data; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

import logging

import numpy as np
from scipy import stats

from mvead_jax.config_io import from_command_line
from mvead_jax.errors import UserError, run

log = logging.getLogger("mvead_jax")
SEEDS = 20
SIMULATED = 4000


def main() -> None:
    config, workdir, _ = from_command_line(__doc__)

    from mvead_jax.files import write_json

    if not config.decision.held_out:
        raise UserError("config decision.held_out=0: hold out a share of the training samples, as 0.4")
    found = {"target": config.decision.false_alarms, "held_out_share": config.decision.held_out}
    for own_lists in (False, True):
        name = "own lists" if own_lists else "random lists"
        found[name] = measure(config, workdir, own_lists)
        print(told(name, found[name]))
    write_json(workdir / "decision.json", found)


def measure(config, workdir, own_lists: bool) -> dict:
    """Rates of all seeds of one category, and the interval in which the mean of false alarms must lie."""
    import dataclasses

    import jax

    from mvead_jax.backbone.extractor import load_backbone
    from mvead_jax.calibrate import calibrate, keys_of, uses_geometry
    from mvead_jax.data.records import DatasetIndex
    from mvead_jax.decision.conformal import allowed_above
    from mvead_jax.decision.decide import decide
    from mvead_jax.decision.split import held_out_ids
    from mvead_jax.hold_out import score_held_out
    from mvead_jax.methods.mvead.evidence import calibrate_scores
    from mvead_jax.model import build_method
    from mvead_jax.scoring import Model, Scorer
    from mvead_jax.train import open_index, split_features

    target = config.decision.false_alarms
    plain = dataclasses.replace(config, decision=dataclasses.replace(config.decision, held_out=0.0))
    index = open_index(plain)
    if len(index.categories) != 1:
        raise UserError(f"{config.data.root}: name one category by --config.data.categories")
    (category,) = index.categories
    backbone = load_backbone(config.backbone, config.data.image_size, config.seed)
    parts = [index.select(split=split) for split in ("train", "test")]
    features = np.concatenate([split_features(plain, part, backbone, workdir)[:] for part in parts])
    samples = tuple(sample for part in parts for sample in part.samples)
    geometries = calibrate(plain, index, workdir) if uses_geometry(plain) else {}
    keys = keys_of(plain, geometries, index.categories, index.views, backbone)
    good = np.array([at for at, one in enumerate(samples) if one.label != 1])
    bad = np.array([at for at, one in enumerate(samples) if one.label == 1], int)
    trained = len(parts[0])

    def part(rows) -> DatasetIndex:
        return DatasetIndex(index.root, tuple(samples[row] for row in rows), index.views)

    seeds = []
    for seed in range(SEEDS):
        order = good if own_lists else np.random.default_rng(seed).permutation(good)
        names = {f"{samples[row].split}/{samples[row].id}": row for row in order[:trained]}
        drawn = held_out_ids(tuple(names), category, config.decision.held_out, seed)
        held = np.array(sorted(names[name] for name in drawn))
        learned = np.setdiff1d(order[:trained], held)
        method = build_method(config, index.views, backbone)
        state = method.fit(part(learned), features[learned], keys, jax.random.key(seed))
        chosen = np.arange(min(len(learned), 64))
        normal = method.leave_one_out(state, part(learned), features[learned], keys, chosen)
        model = Model(method, state, calibrate_scores(normal))
        calibration = score_held_out(config, model, part(held), features[held], keys, {category: 0})[category]
        scorer = Scorer(model, keys[category], config.score)
        made = {}
        for word, rows in (("good", order[trained:]), ("bad", bad)):
            new = part(rows)
            present = new.present()
            made[word] = [
                decide(calibration, scores, has, target)
                for at, maps in scorer.maps(features[rows], present, np.arange(len(rows)))
                for scores, has in zip(maps.reshape(*maps.shape[:2], -1).max(2), present[at], strict=True)
            ]
        fails = {word: [own.decision == "fail" for own in all_of] for word, all_of in made.items()}
        any_view = [min(view.p_value for view in own.views) <= target for own in made["good"]]
        seeds.append(
            {
                "seed": seed,
                "false_alarms": int(sum(fails["good"])),
                "any_view": int(sum(any_view)),
                "detected": int(sum(fails["bad"])),
            }
        )
        log.info("seed %d: %s", seed, seeds[-1])
    count, new = len(held), len(good) - trained
    above = allowed_above(count, target)
    bounds = _simulated(trained, count, new, above) if own_lists else _exact(new, count, above)
    return {
        "learned": trained - count,
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
