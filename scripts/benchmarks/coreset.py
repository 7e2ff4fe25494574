"""Rows per second of a greedy k-centre coreset, beside the procedures of anomalib and of
patchcore-inspection. Needs the extra `bench` (torch); about two minutes on two cores.

The peers' procedures are written here in torch as their sources do it: each row taken is one pass over all
projected points (anomalib: norm of differences to the row; patchcore-inspection: three matrix products and a
concatenation). A pass costs the same whichever row it is, so a peer is timed for `--passes` rows and its time
is scaled to the whole selection, its projection not counted; ours is run whole, projection and all.
"""

from __future__ import annotations

import argparse

from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch",)
QUICK = ("--rows=20000", "--passes=50", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--width", type=int, default=768, help="width of a feature")
    parser.add_argument("--share", type=float, default=0.1, help="of the rows that is taken")
    parser.add_argument("--passes", type=int, default=200, help="rows that a peer takes in a round")
    parser.set_defaults(rounds=3)


def measure(args: argparse.Namespace) -> list[dict]:
    """Our selection against the peers' loops on the same random features and threads."""
    limit_threads(args.threads)
    import jax
    import numpy as np
    import torch

    from mvead_jax.bank.coreset import greedy_coreset
    from mvead_jax.bank.search.projection import origin_of, project, random_matrix

    torch.set_num_threads(args.threads)
    random = np.random.default_rng(0)
    features = random.standard_normal((args.rows, args.width), dtype=np.float32)
    size = max(1, int(args.share * args.rows))
    passes = min(args.passes, size)
    dimension = min(128, args.width)
    matrix = random_matrix(args.width, dimension, 0)
    points = torch.from_numpy(np.array(project(features, origin_of(features), matrix)))

    def run_ours(count: int = size) -> np.ndarray:
        return greedy_coreset(features, count, seed=0, projection_dim=dimension)

    def run_anomalib() -> list[int]:
        return by_differences(points, int(first), passes)

    def run_patchcore() -> list[int]:
        return _by_products(points, int(first), passes)

    first = run_ours(1)[0]
    ours = run_ours(passes)
    if dimension < args.width:
        for name, theirs in (("anomalib", run_anomalib()), ("patchcore-inspection", run_patchcore())):
            if not (same := np.mean(ours == theirs)) > 0.9:
                raise RuntimeError(f"{same:.0%} of the rows are those of {name}: the times mean nothing")
    contestants = {
        "mvead_jax": run_ours,
        "the procedure of anomalib (torch)": run_anomalib,
        "the procedure of patchcore-inspection (torch)": run_patchcore,
    }
    seconds = alternate(contestants, args.rounds)
    for name in list(seconds)[1:]:
        seconds[name] = [one / passes * size for one in seconds[name]]
    facts = {
        "size": f"{size} of {args.rows} x {args.width}, projected to {dimension}",
        "data": "gaussian",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "peers": f"timed for {passes} rows and scaled to {size}, without their projection",
    }
    return [report("coreset", "rows", size, seconds, facts)]


def by_differences(points, first: int, count: int) -> list[int]:
    """anomalib's loop: the norm of all differences to the row taken last."""
    import torch

    taken, least = [first], None
    for _ in range(count - 1):
        distance = torch.linalg.norm(points - points[taken[-1]], ord=2, dim=1, keepdim=True)
        least = distance if least is None else torch.minimum(least, distance)
        taken.append(int(least.squeeze(1).argmax()))
        least[taken[-1]] = 0
    return taken


def _by_products(points, first: int, count: int) -> list[int]:
    """patchcore-inspection's loop: |a|^2 + |b|^2 - 2 ab of all points and the row taken last, all anew.

    Its ten random starting points only make the first distances; here that is one row, so that all
    contestants take the same ones.
    """
    import torch

    def distances(row: int):
        own = points[row : row + 1]
        squares = points.unsqueeze(1).bmm(points.unsqueeze(2)).reshape(-1, 1)
        return (squares + own.square().sum() - 2 * points.mm(own.T)).clamp(0, None).sqrt()

    taken, least = [first], distances(first)
    for _ in range(count - 1):
        taken.append(int(least.argmax()))
        least = torch.cat([least, distances(taken[-1])], dim=1).min(dim=1).values.reshape(-1, 1)
    return taken
