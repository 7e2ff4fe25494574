"""Render the five-camera inspection rig: a small data set in Real-IAD's layout with known cameras.

    python scripts/render_rig.py --output data/rig

makes two part families with 40 normal training samples, 16 normal and 24 defective test samples each, every
sample seen by five cameras at 256 x 256 pixels: 160 samples, about a minute on two cores and 24 MB.
Run again, it finds the finished set and returns at once. Needs the extra: pip install -e '.[rig]'.

exit codes: 0 the set is there; 2 a mistake in the command; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

import argparse
import time

from mvead_jax.rig.dataset import render_rig
from mvead_jax.rig.layout import FAMILIES
from mvead_jax.runtime.errors import run
from mvead_jax.runtime.paths import expanded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=expanded, required=True, help="folder of the set")
    parser.add_argument("--families", default="flange,terminal", help=f"comma list of {', '.join(FAMILIES)}")
    parser.add_argument("--train", type=int, default=40, help="normal training samples per family")
    parser.add_argument("--test-normal", type=int, default=16, help="normal test samples per family")
    parser.add_argument("--test-defective", type=int, default=24, help="defective test samples per family")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes; one per core if not given")
    args = parser.parse_args()
    begin = time.monotonic()
    rig = render_rig(
        args.output,
        families=[family.strip() for family in args.families.split(",") if family.strip()],
        train=args.train,
        test_normal=args.test_normal,
        test_defective=args.test_defective,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )
    if rig.rendered == 0:
        print(f"{rig.root}: found the finished set, {rig.samples} samples of five views")
    else:
        seconds = time.monotonic() - begin
        print(
            f"{rig.root}: rendered {rig.rendered} of {rig.samples} samples of five views in {seconds:.0f} s"
        )


if __name__ == "__main__":
    run(main)
