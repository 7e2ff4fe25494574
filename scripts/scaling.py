"""What all of Real-IAD costs in one model, computed (not measured) from the sizes and the devices' data
sheets.

python scripts/scaling.py [--share 0.4] [--compiled]

Prints the tables of docs/scaling.md: memory, arithmetic, bytes moved and seconds on one device and on eight,
for MVEAD on DINOv2-base, 224 x 224, full banks. --compiled compiles each stage for this device instead, runs
nothing, and prints what XLA counts and the memory that it needs (benchmarks/compiled_costs.py). Writes nothing.

exit codes: 0 printed; 2 a mistake in the command
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mvead_jax.runtime.errors import UserError, run

TRAINING, TEST, VIEWS = 36_465, 114_585, 5  # images of realiad_jsons
PATCHES, WIDTH, BLOCKS, EPOCHS = 256, 768, 7, 50
QUERIES_AT_ONCE = 8 * PATCHES  # of a view: score.py gives a device eight samples at a time


@dataclass(frozen=True)
class Device:
    """A device's data sheet: peak rates of dense matrix products, and its memory.

    Attributes:
      float32: FLOP/s of products that are exact to float32 (on a TPU six bfloat16 products each).
      bfloat16: FLOP/s. bandwidth: bytes/s. memory: bytes.
    """

    name: str
    float32: float
    bfloat16: float
    bandwidth: float
    memory: float


DEVICES = (
    Device("RTX A5000", 27.8e12, 111e12, 0.77e12, 24e9),
    Device("A100 80 GB", 19.5e12, 312e12, 2.04e12, 80e9),
    Device("H100 SXM", 67e12, 989e12, 3.35e12, 80e9),
    Device("TPU v5e", 197e12 / 6, 197e12, 0.82e12, 16e9),
)


@dataclass(frozen=True)
class Work:
    """A stage: floating-point operations, and bytes moved if it stands alone on one device."""

    name: str
    operations: float
    moved: float


def stages() -> list[Work]:
    tokens = PATCHES + 1
    block = tokens * 24 * WIDTH**2 + 4 * tokens**2 * WIDTH
    picture = BLOCKS * block + PATCHES * 2 * 14 * 14 * 3 * WIDTH
    pictures = TRAINING + TEST
    fusion = VIEWS * PATCHES * 8 * WIDTH**2  # four projections of every patch of a sample
    hidden = 2 / VIEWS  # share of the views whose features the pass with hidden patches gives
    steps = EPOCHS * TRAINING / VIEWS
    rows, queries = TRAINING * PATCHES / VIEWS, TEST * PATCHES / VIEWS  # of a view
    search = VIEWS * 2 * rows * queries * WIDTH
    passes = VIEWS * queries / QUERIES_AT_ONCE
    features = VIEWS * PATCHES * WIDTH * 4
    return [
        Work("features of all images", pictures * picture, pictures * (PATCHES * WIDTH * 4 + 224 * 224 * 12)),
        # Forward and twice that backward, clean and with hidden patches: there one of the four projections, of two
        # views, is made anew, and of the six arrays keys and values are moved whole, the others of two views.
        Work(
            "pre-training, 50 epochs",
            steps * 3 * fusion * (1 + hidden / 4),
            steps * 3 * features * (6 + 2 + 4 * hidden),
        ),
        Work("fusing both splits", pictures / VIEWS * fusion, pictures / VIEWS * 2 * features),
        # With n devices each holds an n-th of the rows and n times as many queries come at once.
        Work("search", search, passes * rows * WIDTH * 4),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.4, help="of the peak rate that products reach")
    parser.add_argument("--compiled", action="store_true", help="what XLA says of the compiled stages")
    arguments = parser.parse_args()
    share = arguments.share
    if not 0 < share <= 1:
        raise UserError(f"--share={share}: must be above 0 and at most 1")
    if arguments.compiled:
        print("\n".join(_compiled()))
        return
    rows, features = TRAINING * PATCHES, TRAINING * PATCHES * WIDTH * 4
    print(f"Banks: {rows:,} rows of {WIDTH} float32, {features / 1e9:.1f} GB, a fifth of it for each view.")
    print(f"Features of the test split: {TEST * PATCHES * WIDTH * 4 / 1e9:.0f} GB, read once.")
    print(f"Features of the training split, read in each epoch: {EPOCHS * features / 1e12:.2f} TB in all.")
    print("\n| stage | PFLOP | bytes moved on the device, TB | FLOP per byte |\n|---|---|---|---|")
    for work in stages():
        intensity = work.operations / work.moved
        print(f"| {work.name} | {work.operations / 1e15:.1f} | {work.moved / 1e12:.2f} | {intensity:.0f} |")
    print("\n| devices | " + " | ".join(work.name for work in stages()), end=" | ")
    print("search, bfloat16 certified | sum with it | banks on each device |")
    print("|---" * (len(stages()) + 4) + "|")
    for device in DEVICES:
        for count in (1, 8):
            print(_line(device, count, share))


def _compiled() -> list[str]:
    import jax  # not before: the computed plan needs none
    from benchmarks.compiled_costs import DEVICES as MEMORIES
    from benchmarks.compiled_costs import Sizes, costs

    sizes = Sizes()
    per_call = dict(zip(("features", "pre-training", "fusing", "search"), stages(), strict=True))
    calls = {
        "features": (TRAINING + TEST) / sizes.images,
        "pre-training": EPOCHS * TRAINING / VIEWS / sizes.samples,
        "fusing": (TRAINING + TEST) / VIEWS / sizes.samples,
        "search": TEST * PATCHES / sizes.queries,
    }
    fits = [f"fits {memory / 1e9:.0f} GB" for memory in MEMORIES]
    header = [
        "one call of",
        "GFLOP counted",
        "of the plan",
        "GB moved, counted",
        "GB given",
        "GB set aside",
        *fits,
    ]
    lines = [
        f"Compiled by jax {jax.__version__} for {jax.devices()[0].device_kind}; nothing was run. {sizes.backbone} to "
        f"block {sizes.blocks}, {sizes.images} images, {sizes.samples} samples of {sizes.views} views, "
        f"{sizes.rows:,} rows, {sizes.queries:,} queries",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for cost in costs(sizes):
        counted = ["-" if value is None else f"{value / 1e9:.1f}" for value in (cost.operations, cost.moved)]
        planned = f"{per_call[cost.name].operations / calls[cost.name] / 1e9:.1f}"
        memory = [f"{value / 1e9:.2f}" for value in (cost.given, cost.aside)]
        room = ["yes" if cost.memory < 0.9 * size else "no" for size in MEMORIES]
        cells = [cost.name, counted[0], planned, counted[1], *memory, *room]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _line(device: Device, count: int, share: float) -> str:
    def seconds(work: Work, rate: float) -> float:
        moved = work.moved / (count if work.name == "search" else 1)
        return max(work.operations / (share * rate), moved / device.bandwidth) / count

    times = [seconds(work, device.float32) for work in stages()]
    times.append(seconds(stages()[-1], device.bfloat16))
    cells = " | ".join(_duration(one) for one in times)
    total = _duration(sum(times[:-2]) + times[-1])
    bank = TRAINING * PATCHES * WIDTH * 4 / count
    fits = "" if bank < 0.8 * device.memory else ", too large"
    return f"| {count} x {device.name} | {cells} | {total} | {bank / 1e9:.1f} GB{fits} |"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    run(main)
