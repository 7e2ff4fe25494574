"""Render the five-camera inspection rig: a small data set in Real-IAD's layout with known cameras.

    mvead render-rig --output data/rig

makes two part families with 40 normal training samples, 16 normal and 24 defective test samples each, every
sample seen by five cameras at 256 x 256 pixels: 160 samples, about a minute on two cores and 24 MB.
Run again, it finds the finished set and returns at once. Needs the extra: pip install '.[rig]' in the checkout.

exit codes: 0 the set is there; 2 a mistake in the command; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("render-rig", __doc__)
    own.add_argument("--output", type=expanded, required=True, help="folder of the set")
    own.add_argument("--families", default="flange,terminal", help="comma list of flange, terminal, cogwheel")
    own.add_argument("--train", type=int, default=40, help="normal training samples per family")
    own.add_argument("--test-normal", type=int, default=16, help="normal test samples per family")
    own.add_argument("--test-defective", type=int, default=24, help="defective test samples per family")
    own.add_argument("--size", type=int, default=256, help="pixels per side")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--workers", type=int, default=None, help="processes; one per core if not given")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    args = parser().parse(arguments)

    from mvead_jax.rig.dataset import render_rig  # not before: --help needs no JAX

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
