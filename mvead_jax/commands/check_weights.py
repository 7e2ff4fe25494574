"""Check downloaded weights: what they give of one photograph beside the numbers that transformers publishes.

    mvead check-weights dinov2-base --image 000000039769.png [--weights DIR]

The photograph is tests/fixtures/tests_samples/COCO/000000039769.png of transformers' repository, 640 x 480 pixels; it
is not part of the project. It is prepared as transformers' integration test prepares it (shorter side 256, middle
224 x 224), and the first three numbers of the first three tokens of the last hidden state are compared within the
tolerance of that test. Reads the weights where training would; writes nothing.

exit codes: 0 the numbers agree; 1 they do not; 2 a mistake in the command, the image or the weights; 130 Ctrl-C
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime import console
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("check-weights", __doc__, console.flags())
    own.add_argument("backbone", help="dinov2-base or dinov2-base-registers")
    own.add_argument("--image", type=expanded, required=True, help="the photograph 000000039769.png")
    own.add_argument(
        "--weights",
        default="auto",
        help="as backbone.weights of a config: auto, a directory, a hub id; random shows a check that fails",
    )
    own.add_argument(
        "--directory", type=expanded, default=Path("weights"), help="where auto looks first (weights)"
    )
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = parser().parse(arguments)
    console.apply(given)

    from mvead_jax.backbones.dinov2 import published  # not before: --help needs no JAX

    found = published.compare(given.backbone, given.image, given.weights, given.directory)
    own, theirs = found.ours, found.published
    print(f"{given.backbone}, weights {found.weights}, on {given.image}")
    print(f"last hidden state, tokens 0 to 2, numbers 0 to 2, beside {theirs.source}:")
    for number, (row, expected) in enumerate(zip(own, theirs.tokens, strict=True)):
        print(f"  token {number}: ours {_numbers(row)}   published {_numbers(expected)}")
    tolerance = f"{theirs.absolute:g} + {theirs.relative:g} of the number"
    print(
        f"largest difference {found.differences.max():.2g}, tolerance {tolerance}: "
        f"{'the weights give the published numbers' if found.agree else 'NOT the published numbers'}"
    )
    sys.exit(0 if found.agree else 1)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:8.4f}" for value in values)
