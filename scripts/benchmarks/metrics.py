"""Maps per second of all pixel metrics (AUROC, AP, F1-max, AUPRO), beside scikit-learn with scikit-image.
Needs the extra `bench` (scikit-image); about two minutes on two cores.

The peer sorts with scikit-learn's roc_auc_score, average_precision_score and precision_recall_curve, and
finds AUPRO as public evaluators do: 200 equidistant thresholds, and at each of them the overlap of every
region that skimage.measure found (once here; they label again at every threshold). Its cost is a little more
than linear in the maps, as ours is, so the ratio is measured at a size that the peer can do. Ours alone also
runs at the size of a Real-IAD category, in a process of its own: exactly, and with so small a budget that it
has to stream.

The maps are 16 x 16 patch scores enlarged bilinearly; 45 % of them have one to three elliptic defects.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("skimage",)
QUICK = ("--images=20", "--category=400", "--rounds=3")

_PATCHES = 16
_BATCH = 32


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=100, help="maps that both contestants measure")
    parser.add_argument("--category", type=int, default=3800, help="maps that ours measures alone")
    parser.add_argument("--size", type=int, default=256, help="side of a map, pixels")
    parser.add_argument("--steps", type=int, default=200, help="thresholds of the peer's AUPRO")
    parser.set_defaults(rounds=5)


def measure(args: argparse.Namespace) -> list[dict]:
    """Ours against the peer on the same arrays, then ours on a whole category."""
    limit_threads(args.threads)
    from mvead_jax.evaluation.pixels import EXACT_PIXELS, pixel_metrics

    alone = [_alone(args.category, args.size, exact_pixels) for exact_pixels in (EXACT_PIXELS, 2**19)]
    import numpy as np

    maps, masks = (np.concatenate(part) for part in zip(*category_maps(args.images, args.size), strict=True))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        starts = range(0, args.images, _BATCH)
        return ((maps[start : start + _BATCH], masks[start : start + _BATCH]) for start in starts)

    def run_ours() -> dict[str, Any]:
        return pixel_metrics(batches).to_dict()

    def run_theirs() -> dict[str, float]:
        return {**_ranking(maps, masks), "aupro": _aupro(maps, masks, args.steps)}

    ours, theirs = run_ours(), run_theirs()
    off = {name: abs(ours[name] - theirs[name]) for name in theirs}
    # 200 equidistant thresholds miss the steep start of the PRO curve.
    if max(off["auroc"], off["ap"], off["f1_max"]) > 1e-9 or off["aupro"] > 0.05:
        raise RuntimeError(f"the contestants disagree by {off}: their times mean nothing")
    seconds = alternate({"mvead_jax": run_ours, "scikit-learn + scikit-image": run_theirs}, args.rounds)
    facts = {
        "size": f"{args.images} x {args.size} x {args.size}, float32",
        "defect pixels": f"{ours['base_rate']:.2%} in {ours['regions']} regions",
        "thresholds of the peer's AUPRO": args.steps,
        "threads": args.threads,
        "difference": ", ".join(f"{name} {value:.0e}" for name, value in off.items()),
        "ours alone": "; ".join(alone),
    }
    return [report("metrics", "maps", args.images, seconds, facts)]


def _alone(images: int, size: int, exact_pixels: int) -> str:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_alone, (images, size, exact_pixels))


def measure_alone(images: int, size: int, exact_pixels: int) -> str:
    """In a process of its own: the seconds, the most memory, and the bounds of a category's pixel metrics."""
    from mvead_jax.evaluation.pixels import pixel_metrics

    begin = time.perf_counter()
    for _ in category_maps(images, size):
        pass
    reading = time.perf_counter() - begin
    begin, processor = time.perf_counter(), time.process_time()
    found = pixel_metrics(lambda: category_maps(images, size), exact_pixels=exact_pixels).to_dict()
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / 1e9
    mode = "exact" if found["defective"] <= exact_pixels else "streaming"
    return (
        f"{mode} {images} x {size} x {size}: {found['defective']:,} defect pixels in {found['regions']:,} "
        f"regions, {seconds:.1f} s ({processor:.1f} s of processors, each reading {reading:.1f} s), "
        f"peak {peak:.2f} GB, "
        f"largest error {max(found['error'].values()):.0e}"
    )


def category_maps(images: int, size: int) -> Iterator[tuple[Any, Any]]:
    """Batches of maps [b,size,size] float32 and masks, the same at every call."""
    import cv2
    import numpy as np

    for start in range(0, images, _BATCH):
        random = np.random.default_rng(start)
        count = min(_BATCH, images - start)
        patches = random.gamma(8, 1, (count, _PATCHES, _PATCHES)).astype(np.float32)
        masks = np.zeros((count, size, size), np.uint8)
        for patch, mask in zip(patches, masks, strict=True):
            if random.random() < 0.45:
                for _ in range(random.integers(1, 4)):
                    centre, radii = random.integers(0, size, 2), random.integers(2, max(3, size // 10), 2)
                    cv2.ellipse(mask, centre.tolist(), radii.tolist(), random.uniform(0, 180), 0, 360, 1, -1)
                patch += 12 * cv2.resize(mask.astype(np.float32), patch.shape, interpolation=cv2.INTER_AREA)
        maps = np.stack([cv2.resize(patch, (size, size)) for patch in patches])
        yield maps, masks.astype(bool)


def _ranking(maps: Any, masks: Any) -> dict[str, float]:
    import numpy as np
    from sklearn import metrics

    labels, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return {
        "auroc": metrics.roc_auc_score(labels, scores),
        "ap": metrics.average_precision_score(labels, scores),
        "f1_max": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))),
    }


def _aupro(maps: Any, masks: Any, steps: int, limit: float = 0.3) -> float:
    import numpy as np
    from skimage import measure

    regions = [
        (at, *region.coords.T)
        for at, mask in enumerate(masks)
        for region in measure.regionprops(measure.label(mask))
    ]
    normal = ~masks
    points = []
    for threshold in np.linspace(maps.max(), maps.min(), steps):
        above = maps >= threshold
        overlap = np.mean([above[region].mean() for region in regions])
        points.append((np.logical_and(normal, above).sum() / normal.sum(), overlap))
    fpr, overlap = np.array(points).T
    x = np.append(fpr[fpr <= limit], limit)
    return float(np.trapezoid(np.interp(x, fpr, overlap), x) / limit)
