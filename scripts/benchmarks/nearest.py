"""Queries per second of the exact search in a memory bank, beside FAISS's IndexFlatL2, PyTorch's cdist and
scikit-learn.
Needs the extra `bench` (faiss-cpu, torch); about two minutes on two cores.

Ours runs twice: with float32 products, and with bfloat16 products whose rounding is bounded; both answer with
what direct float32 differences say. All answers are held against a float64 search. `plain product` is the
rate of the matrix product alone, of the same shapes and in the same blocks, that a search by products can't
exceed; it keeps no answer.

Then, with no peer, what more than one neighbour costs: the `--neighbours` nearest rows, and the distance to
their hull (mvead_jax/bank/hull.py), beside the nearest row alone, in turns; sizes as --rows and --width say.
`--own` runs only these, without the extra.

Data: `gaussian`; `clustered`, 200 clusters 3 times as far apart as they are wide, around (100, 100, ...): the
formula |q|^2 + |b|^2 - 2 q.b is wrong there unless both are centred; `tight`, 30 times as far apart;
`images`, patches of smooth images of one part that moves and changes its light: neighbours lie side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.errors import UserError

NEEDS = ("faiss", "torch")
QUICK = ("--rows=10000", "--rounds=3", "--data=clustered,images")
_SPREAD = {"clustered": 3.0, "tight": 30.0}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, default=2560)
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the bank")
    parser.add_argument("--width", type=int, default=768, help="width of a feature")
    parser.add_argument("--data", default="gaussian,clustered,tight,images", help="kinds, comma-separated")
    parser.add_argument("--neighbours", type=int, default=20, help="k of the search beside k = 1")
    parser.add_argument("--own", action="store_true", help="only ours: k nearest and hull beside the nearest")


def measure(args: argparse.Namespace) -> list[dict]:
    limit_threads(args.threads)
    results = []
    for kind in args.data.split(","):
        if not args.own:
            results += _beside_peers(kind, args)
        results += beside_one_neighbour(kind, args)
    return results


def beside_one_neighbour(kind: str, args: argparse.Namespace) -> list[dict]:
    """The k nearest rows, and then the distance to their hull, against the nearest row alone."""
    import jax
    import numpy as np

    from mvead_jax.bank.hull import hull_distance
    from mvead_jax.bank.nearest import k_nearest, nearest

    k = args.neighbours
    on_device = [jax.device_put(x) for x in _queries_and_bank(kind, args)]
    contestants: dict[str, Callable[[], Any]] = {
        f"{k} nearest": lambda: jax.block_until_ready(k_nearest(*on_device, k)),
        f"hull of {k}": lambda: jax.block_until_ready(hull_distance(*on_device, k=k)),
        "nearest": lambda: jax.block_until_ready(nearest(*on_device)),
    }
    distance, _, compared = contestants[f"{k} nearest"]()
    truth = _float64(*map(np.asarray, on_device), k)
    if not np.allclose(distance, truth, rtol=1e-5):
        raise RuntimeError(f"{kind}: the {k} nearest rows are not those of float64")
    seconds = alternate(contestants, args.rounds)
    facts = _facts(kind, args) | {"rows compared directly": f"{float(compared.mean()):.1f} a query"}
    results = []
    for name in list(contestants)[:2]:
        own = {name: seconds[name], "nearest": seconds["nearest"]}
        results.append(report(f"nearest {kind} {name}", "queries", args.queries, own, facts))
        print(f"  {name} takes {1 / results[-1]['ratios']['nearest']:.2f} times as long as nearest")
    return results


def _facts(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    import jax

    return {
        "size": f"{args.queries} x {args.rows} x {args.width}",
        "data": kind,
        "device": jax.devices()[0].platform,
        "threads": args.threads,
    }


def _beside_peers(kind: str, args: argparse.Namespace) -> list[dict]:
    """Float32 and then bfloat16 against all peers, from the same rounds."""
    import faiss
    import jax
    import numpy as np
    import torch
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    queries, bank = _queries_and_bank(kind, args)
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
    truth = _float64(queries, bank, 1)[:, 0]
    facts = _facts(kind, args)
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


def _queries_and_bank(kind: str, args: argparse.Namespace) -> tuple[Any, Any]:
    return tuple(
        _vectors(kind, count, args.width, seed) for seed, count in enumerate((args.queries, args.rows))
    )


def _vectors(kind: str, count: int, width: int, seed: int) -> Any:
    import numpy as np

    random = np.random.default_rng([seed, 7])
    if kind == "images":
        return _patches(count, width, random)
    own = random.standard_normal((count, width), dtype=np.float32)
    if kind == "gaussian":
        return own
    if kind not in _SPREAD:
        raise UserError(f"--data={kind}: choose of gaussian, images, {', '.join(_SPREAD)}")
    middle = 100 + _SPREAD[kind] * np.random.default_rng(3).standard_normal((200, width), dtype=np.float32)
    return middle[random.integers(200, size=count)] + own


def _patches(count: int, width: int, random: Any) -> Any:
    """Patches, 16 x 16 of an image: smooth fields of one part, shifted by up to a patch, with another light
    and some noise, seen through one layer of a random network."""
    import numpy as np
    from scipy.ndimage import gaussian_filter, shift

    part = np.random.default_rng(3)
    fields = gaussian_filter(part.standard_normal((48, 24, 24)), (0, 2, 2)) * 6
    layer = part.standard_normal((48, width)).astype(np.float32) / 7
    images = []
    for _ in range(-(-count // 256)):
        moved = shift(fields, (0, *random.uniform(-1, 1, 2)), order=1)[:, 4:20, 4:20] * random.uniform(
            0.8, 1.2
        )
        moved = moved + 0.05 * random.standard_normal(moved.shape)
        images.append(np.maximum(moved.reshape(48, 256).T.astype(np.float32) @ layer, 0))
    return np.concatenate(images)[:count]


def _ours(queries: Any, bank: Any, precision: str) -> tuple[Any, Any]:
    import numpy as np

    from mvead_jax.bank.nearest import k_nearest

    _, index, compared = k_nearest(queries, bank, 1, precision=precision)
    return np.asarray(index[:, 0]), np.asarray(compared)


def _plain_product(args: argparse.Namespace) -> tuple[Callable, int]:
    """The products of a search in its own blocks, of which only the lowest is kept, and the rows in them."""
    import jax
    import jax.numpy as jnp

    from mvead_jax.bank.search.exact import block_rows, queries_at_once

    size = block_rows(None, args.queries, (args.rows, args.width))
    blocks = args.rows // size

    @jax.jit
    def product(queries, bank):
        def step(lowest, number):
            block = jax.lax.dynamic_slice_in_dim(bank, number * size, size)

            def some(queries):
                return jnp.matmul(block, queries.T, precision="highest").min(0)

            return jnp.minimum(lowest, jax.lax.map(some, parts)), None

        at_once = min(queries_at_once(), len(queries))
        parts = queries[: len(queries) // at_once * at_once].reshape(-1, at_once, queries.shape[1])
        return jax.lax.scan(step, jnp.zeros(parts.shape[:2]), jnp.arange(blocks))[0]

    return product, blocks * size


def _temporary(queries: Any, bank: Any, precision: str) -> int:
    """Bytes that XLA sets aside."""
    from mvead_jax.bank.search.exact import search

    options = {"k": 1, "block_size": None, "precision": precision}
    memory = search.lower(queries, bank, None, **options).compile().memory_analysis()
    return memory.temp_size_in_bytes


def _float64(queries: Any, bank: Any, k: int) -> Any:
    """Distances to the k nearest rows by float64 products around the middle: errors are below 1e-9 here."""
    import numpy as np

    middle = bank.mean(0, dtype=np.float64)
    near = queries - middle
    best = np.full((len(near), k), np.inf)
    for start in range(0, len(bank), 5000):
        block = bank[start : start + 5000] - middle
        squared = (near**2).sum(1)[:, None] + (block**2).sum(1)[None] - 2 * near @ block.T
        best = np.partition(np.concatenate([best, squared], 1), k - 1, axis=1)[:, :k]
    return np.sqrt(np.sort(best, axis=1))
