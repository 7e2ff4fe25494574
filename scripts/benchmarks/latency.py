"""Milliseconds from the images of one five-view part to its scores, beside PatchCore put together from the
peers. Needs the extra `bench` (torch, faiss-cpu); about two minutes on two cores.

Ours is `Inspector.inspect` of five JPEGs on disk, warm: decoding, resizing, DINOv2, a bank for each view,
maps and scores. The peers decode and resize by the same code; then transformers' PyTorch model, and for each
patch the nearest row by FAISS's IndexFlatL2, or by the formula |q|^2 + |b|^2 - 2 q.b in torch, which is how
anomalib's PatchCore finds it. (anomalib itself wants another torch than the one that is pinned here, takes
one image at a time and has no views.)

All have the same random weights and the same banks, of as many rows as a 10 % coreset of `--normal` parts,
and must give the same scores. A round is one part; p50 and p95 are over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch", "transformers", "faiss")
QUICK = ("--backbones=dinov2-small", "--rounds=5")
_VIEWS = ("C1", "C2", "C3", "C4", "C5")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", default="dinov2-small,dinov2-base", help="comma-separated")
    parser.add_argument("--block", type=int, default=7)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--stored", type=int, default=512, help="side of the images on disk, pixels")
    parser.add_argument("--normal", type=int, default=100, help="normal parts, a multiple of 10")
    parser.set_defaults(rounds=40)


def measure(args: argparse.Namespace) -> list[dict]:
    limit_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        return [_of(name, args, Path(folder)) for name in args.backbones.split(",")]


def _of(name: str, args: argparse.Namespace, folder: Path) -> dict:
    import faiss
    import jax
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    forward, theirs = backbones(name, args.block)
    # A 10 % coreset has as many rows as all patches of a tenth of the parts.
    parts = [_pictures(folder, number, args.stored) for number in range(max(1, args.normal // 10) + 1)]
    inspector, banks = _inspector(lambda images: forward(images)[:, 1:], args.size, parts[1:])
    indices = []
    for bank in banks:
        index = faiss.IndexFlatL2(bank.shape[1])
        index.add(bank)
        indices.append(index)
    of_torch = [torch.from_numpy(bank) for bank in banks]

    @torch.inference_mode()
    def features() -> Any:
        images = inspector.preprocess(parts[0])[0]
        return theirs(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())[:, 1:]

    def run_ours() -> list[float]:
        return list(inspector.inspect(parts[0]).scores.values())

    def run_faiss() -> list[float]:
        found = features().numpy()
        squared = [index.search(own, 1)[0].max() for index, own in zip(indices, found, strict=True)]
        return [float(np.sqrt(max(one, 0))) for one in squared]

    def run_torch() -> list[float]:
        return [_by_formula(own, bank) for own, bank in zip(features(), of_torch, strict=True)]

    ours = np.array(run_ours())
    difference = max(float(np.abs(np.array(peer()) / ours - 1).max()) for peer in (run_faiss, run_torch))
    if not difference < 0.01:
        raise RuntimeError(f"the contestants' scores differ by {difference:.1%}: their times mean nothing")
    contestants: dict[str, Callable] = {
        "Inspector.inspect": run_ours,
        "transformers, FAISS": run_faiss,
        "transformers, torch as anomalib": run_torch,
    }
    facts = {
        "backbone": f"{name} to block {args.block}, random weights, {args.size} px",
        "part": f"{len(_VIEWS)} JPEGs of {args.stored} x {args.stored} pixels on disk",
        "banks": f"{len(_VIEWS)} of {len(banks[0])} rows",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "largest difference of a score": f"{difference:.1e}",
    }
    seconds = alternate(contestants, args.rounds)
    result = report(f"latency, {name}", "parts", 1, seconds, facts)
    result["milliseconds"] = {}
    for contestant, values in seconds.items():
        p50, p95 = (float(1000 * np.percentile(values, share)) for share in (50, 95))
        result["milliseconds"][contestant] = {"p50": p50, "p95": p95}
        print(f"  {contestant:42s} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms of {args.rounds} parts")
    return result


def _inspector(features: Callable, size: int, normal: list[dict[str, Path]]) -> tuple[Any, list[Any]]:
    """An Inspector of PatchCore whose banks are the patches of some parts, and these [M,D]."""
    import jax
    import numpy as np

    from mvead_jax.backbones.base import Backbone
    from mvead_jax.backbones.info import Info, Tap
    from mvead_jax.bank.fill import Bank
    from mvead_jax.data.trained_images import TrainedImages
    from mvead_jax.geometry.masks import all_keys
    from mvead_jax.methods.base import PATCHES, Spec
    from mvead_jax.methods.patchcore.config import PatchCoreConfig
    from mvead_jax.postprocess.statistics import ScoreStatistics
    from mvead_jax.scoring.scorer import Model, Scorer
    from mvead_jax.serving.inspector import Inspector

    grid = (size // 14, size // 14)
    width = np.asarray(features(np.zeros((1, size, size, 3), np.float32))).shape[-1]
    info = Info("dinov2", "random", False, "", "", 14, {PATCHES: Tap(14, width)}, ())
    backbone = Backbone(
        info=info,
        taps=(PATCHES,),
        shapes={PATCHES: (*grid, width)},
        image_size=size,
        digest="",
        next_block=None,
        apply=lambda images: {PATCHES: features(images).reshape(len(images), *grid, width)},
    )
    statistics = ScoreStatistics(np.zeros(len(_VIEWS)), np.ones(len(_VIEWS)))
    config = PatchCoreConfig()
    method = config.build(Spec.of(_VIEWS, ("part",), backbone))

    def of(banks: dict[str, Bank]) -> Inspector:
        model = Model(method, {"banks": banks}, statistics)
        scorer = Scorer(model, "part", all_keys(len(_VIEWS), grid), config.score)
        return Inspector(backbone, {"part": scorer}, {}, 0.05, "", TrainedImages(8, {}))

    empty = of({})
    found = np.stack([np.asarray(features(empty.preprocess(part)[0])) for part in normal], 1)
    banks = list(found.reshape(len(_VIEWS), -1, width))
    inspector = of({view: Bank(jax.device_put(own)) for view, own in zip(_VIEWS, banks, strict=True)})
    inspector.warm_up()
    return inspector, banks


def _pictures(folder: Path, number: int, size: int) -> dict[str, Path]:
    """Five JPEGs of low frequencies and a little noise, so that patches differ as those of images do."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(number)
    found = {}
    for view in _VIEWS:
        small = Image.fromarray(random.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        levels = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        levels += random.normal(0, 6, levels.shape)
        found[view] = folder / f"{number}_{view}.jpg"
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(found[view], quality=92)
    return found


def _by_formula(queries: Any, bank: Any) -> float:
    """The largest distance of any query to its nearest row."""
    products = queries @ bank.T
    squared = (queries**2).sum(1, keepdim=True) - 2 * products + (bank**2).sum(1)
    return float(squared.clamp_min(0).sqrt().min(1).values.max())
