"""Queries per second of the exact search in a memory bank, beside FAISS's IndexFlatL2. Needs the extra
`bench` (faiss-cpu); under a minute on two cores.
"""

from __future__ import annotations

import argparse

from contests.turns import limit_threads, report, take_turns

NEEDS = ("faiss",)
QUICK = ("--rows=20000", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, default=2560)
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the bank")
    parser.add_argument("--width", type=int, default=768, help="width of a feature")


def contest(args: argparse.Namespace) -> list[dict]:
    """Our exact search against FAISS's on the same random bank, queries and threads."""
    limit_threads(args.threads)
    import faiss
    import jax
    import numpy as np

    from mvead_jax.bank.nearest import nearest as search

    faiss.omp_set_num_threads(args.threads)
    random = np.random.default_rng(0)
    bank = random.standard_normal((args.rows, args.width), dtype=np.float32)
    queries = random.standard_normal((args.queries, args.width), dtype=np.float32)
    index = faiss.IndexFlatL2(args.width)
    index.add(bank)
    ours_bank, ours_queries = jax.device_put(bank), jax.device_put(queries)

    def run_ours() -> np.ndarray:
        return np.asarray(search(ours_queries, ours_bank)[1])

    def run_theirs() -> np.ndarray:
        return index.search(queries, 1)[1][:, 0]

    same = float((run_ours() == run_theirs()).mean())
    # Where two rows are equally near in float32, FAISS may name the other one.
    if same < 0.999:
        raise RuntimeError(f"the contestants agree on {same:.2%} of the neighbours: their times mean nothing")
    seconds = take_turns({"mvead_jax": run_ours, "faiss IndexFlatL2": run_theirs}, args.rounds)
    facts = {
        "size": f"{args.queries} x {args.rows} x {args.width}",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "data": "gaussian",
        "same index": f"{same:.3%}",
    }
    return [report("nearest", "queries", args.queries, seconds, facts)]
