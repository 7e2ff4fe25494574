"""Queries per second of the exact search in a memory bank, beside FAISS's IndexFlatL2, PyTorch's cdist and
scikit-learn.
Needs the extra `bench` (faiss-cpu, torch); about two minutes on two cores.

Ours runs twice: with float32 products, and with bfloat16 products whose rounding is bounded; both answer with
what direct float32 differences say. All answers are held against a float64 search. `plain product` is the
rate of the matrix product alone, of the same shapes and in the same blocks, that a search by products can't
exceed; it keeps no answer.

Data: `gaussian`; `clustered`, 200 clusters 3 times as far apart as they are wide, around (100, 100, ...): the
formula |q|^2 + |b|^2 - 2 q.b is wrong there unless both are centred; `tight`, 30 times as far apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.errors import UserError

NEEDS = ("faiss", "torch")
QUICK = ("--rows=10000", "--rounds=3", "--data=clustered")
_SPREAD = {"clustered": 3.0, "tight": 30.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, default=2560)
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the bank")
    parser.add_argument("--width", type=int, default=768, help="width of a feature")
    parser.add_argument("--data", default="gaussian,clustered,tight", help="kinds, comma-separated")


def measure(args: argparse.Namespace) -> list[dict]:
    limit_threads(args.threads)
    results = []
    for kind in args.data.split(","):
        results += _on(kind, args)
    return results


def _on(kind: str, args: argparse.Namespace) -> list[dict]:
    """Float32 and then bfloat16 against all peers, from the same rounds."""
    import faiss
    import jax
    import numpy as np
    import torch
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    queries, bank = _vectors(kind, args.queries, args.width), _vectors(kind, args.rows, args.width, seed=1)
    flat = faiss.IndexFlatL2(args.width)
    flat.add(bank)
    on_device = jax.device_put(queries), jax.device_put(bank)
    of_torch = torch.from_numpy(queries), torch.from_numpy(bank)
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    product, blocks = _plain_product(args)

    def cdist() -> Any:
        parts = (torch.cdist(part, of_torch[1]).argmin(1) for part in of_torch[0].split(256))
        return torch.cat(list(parts)).numpy()

    contestants: dict[str, Callable[[], Any]] = {
        "float32": lambda: _ours(*on_device, "float32"),
        "bfloat16, certified": lambda: _ours(*on_device, "bfloat16"),
        "faiss IndexFlatL2": lambda: flat.search(queries, 1)[1][:, 0],
        "torch cdist": cdist,
        "scikit-learn brute": lambda: neighbours.kneighbors(queries, return_distance=False)[:, 0],
        "plain product": lambda: product(*on_device).block_until_ready(),
    }
    truth = _float64(queries, bank)
    facts = {
        "size": f"{args.queries} x {args.rows} x {args.width}",
        "data": kind,
        "device": jax.devices()[0].platform,
        "threads": args.threads,
    }
    right = {}
    for name, run in list(contestants.items())[:5]:
        index = np.asarray(run()[0] if name in list(contestants)[:2] else run())
        chosen = np.sqrt(((queries.astype("f8") - bank[index].astype("f8")) ** 2).sum(1))
        right[name] = float((chosen <= truth * (1 + 1e-6)).mean())
    for name in list(contestants)[:2]:
        if right[name] < 1:
            raise RuntimeError(f"{name}: {right[name]:.4%} of the neighbours are those of float64")
    seconds = alternate(contestants, args.rounds)
    seconds["plain product"] = [one * args.rows / blocks for one in seconds["plain product"]]
    results = []
    ours = list(contestants)[:2]
    for name in ours:
        compared = float(np.mean(_ours(*on_device, name.partition(",")[0])[1]))
        own = facts | {
            "rows compared directly": f"{compared:.1f} a query, {compared / args.rows:.3%} of the bank",
            "memory": f"{_temporary(*on_device, name.partition(',')[0]) / 2**20:.0f} MiB beyond both",
            "nearest of float64": ", ".join(f"{who} {share:.2%}" for who, share in right.items()),
        }
        peers = {peer: values for peer, values in seconds.items() if peer not in ours}
        own_seconds = {name: seconds[name], **peers}
        results.append(report(f"nearest {kind} {name}", "queries", args.queries, own_seconds, own))
    flops = 2 * args.queries * args.rows * args.width
    print(f"  plain product: {flops / min(seconds['plain product']) / 1e9:.0f} GFLOP/s at best")
    return results


def _vectors(kind: str, count: int, width: int, seed: int = 0) -> Any:
    import numpy as np

    random = np.random.default_rng([seed, 7])
    own = random.standard_normal((count, width), dtype=np.float32)
    if kind == "gaussian":
        return own
    if kind not in _SPREAD:
        raise UserError(f"--data={kind}: choose of gaussian, {', '.join(_SPREAD)}")
    middle = 100 + _SPREAD[kind] * np.random.default_rng(3).standard_normal((200, width), dtype=np.float32)
    return middle[random.integers(200, size=count)] + own


def _ours(queries: Any, bank: Any, precision: str) -> tuple[Any, Any]:
    import numpy as np

    from mvead_jax.bank.nearest import k_nearest

    _, index, compared = k_nearest(queries, bank, 1, precision=precision)
    return np.asarray(index[:, 0]), np.asarray(compared)


def _plain_product(args: argparse.Namespace) -> tuple[Callable, int]:
    """The products of a search in its own blocks, of which only the lowest is kept, and the rows in them."""
    import jax
    import jax.numpy as jnp

    from mvead_jax.bank.nearest import block_rows

    size = min(block_rows(None, args.queries), args.rows)
    blocks = args.rows // size

    @jax.jit
    def product(queries, bank):
        def step(lowest, number):
            block = jax.lax.dynamic_slice_in_dim(bank, number * size, size)
            products = jnp.matmul(block, queries.T, precision="highest")
            return jnp.minimum(lowest, products.min(0)), None

        return jax.lax.scan(step, jnp.zeros(len(queries)), jnp.arange(blocks))[0]

    return product, blocks * size


def _temporary(queries: Any, bank: Any, precision: str) -> int:
    """Bytes that XLA sets aside."""
    from mvead_jax.bank.nearest import block_rows
    from mvead_jax.bank.search.exact import search

    options = {"k": 1, "block_rows": block_rows(None, len(queries)), "precision": precision}
    memory = search.lower(queries, bank, None, **options).compile().memory_analysis()
    return memory.temp_size_in_bytes


def _float64(queries: Any, bank: Any) -> Any:
    """Distance to the nearest row by float64 products around the middle: errors are below 1e-9 here."""
    import numpy as np

    middle = bank.mean(0, dtype=np.float64)
    near = queries - middle
    best = np.full(len(near), np.inf)
    for start in range(0, len(bank), 5000):
        block = bank[start : start + 5000] - middle
        squared = (near**2).sum(1)[:, None] + (block**2).sum(1)[None] - 2 * near @ block.T
        best = np.minimum(best, squared.min(1))
    return np.sqrt(best)
