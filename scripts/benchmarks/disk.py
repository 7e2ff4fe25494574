"""Seconds and memory of the exact search in banks that are read from disk, from 10,000 to a million rows.
Needs no extra, and 3 GB of disk; about a minute on two cores.

No peer: FAISS reads a flat index into memory. What is shown is that time grows with the rows and memory does
not. Memory is what the process holds of its own at its peak (RssAnon), without the pages of the file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from benchmarks.memory import Peak
from benchmarks.timing import limit_threads, report
from mvead_jax.runtime.paths import expanded

NEEDS = ()
QUICK = ("--sizes=10000,100000",)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, default=1280)
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=_sizes, default=sizes, help="rows of the banks, comma-separated")
    parser.add_argument("--width", type=int, default=768, help="width of a feature")
    parser.set_defaults(rounds=3)
    parser.add_argument(
        "--folder", type=expanded, help="where the bank is written; by default a temporary one"
    )


def measure(args: argparse.Namespace) -> list[dict]:
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "bank.npy"
        _write(path, max(args.sizes), args.width)
        for rows in args.sizes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory is its own
                seconds, memory, platform = pool.apply(_search, (path, rows, args))
            facts = {
                "size": f"{args.queries} x {rows} x {args.width}",
                "bank": f"{rows * args.width * 4 / 2**20:.0f} MiB on disk",
                "peak memory": f"{memory / 2**20:.0f} MiB",
                "device": platform,
                "threads": args.threads,
            }
            results.append(report(f"disk {rows} rows", "rows", rows, {"float32": seconds}, facts))
    return results


def _search(path: Path, rows: int, args: argparse.Namespace) -> tuple[list[float], int, str]:
    """Seconds of each round, the peak of memory in bytes, and the device."""
    limit_threads(args.threads)
    import jax
    import numpy as np

    from mvead_jax.bank.nearest import nearest_on_disk

    bank = np.load(path, mmap_mode="r")[:rows]
    chosen = np.linspace(0, rows - 1, args.queries).astype(int)
    noise = np.random.default_rng(1).standard_normal((args.queries, args.width), dtype=np.float32)
    queries = bank[chosen] + np.float32(0.1) * noise
    seconds = []
    with Peak() as peak:
        for number in range(1 + args.rounds):  # the first compiles
            begin = time.perf_counter()
            _, index = nearest_on_disk(queries, bank)
            if number:
                seconds.append(time.perf_counter() - begin)
            if not (index == chosen).all():
                raise RuntimeError("a query did not find the row it was made from")
    return seconds, peak.bytes, jax.devices()[0].platform


def _write(path: Path, rows: int, width: int) -> None:
    """Gaussian rows, written piece by piece."""
    import numpy as np

    stored = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    random = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        stored[start : start + 10_000] = random.standard_normal(
            (min(10_000, rows - start), width), dtype=np.float32
        )
    stored.flush()


def _sizes(text: str) -> list[int]:
    sizes = [int(size) for size in text.split(",")]
    if min(sizes) < 1:
        raise ValueError(text)
    return sizes
