"""Say whether a data set can be used: open every image and mask, list every problem at once.

    mvead check DIR

DIR is a folder of your own images (train/good/<sample>/<view>.png ...), a manifest.csv or its folder,
Real-IAD's layout, or prepared data: docs/own_data.md. Prints which reader read it, the table of splits
(category, split, good and defective samples, images, masks), the sizes of each view, notes, and the problems:
missing views, images and masks that can't be read or don't fit, masks that brightness does not tell, labels
that contradict their masks, the same image in train and test, too few samples to learn from. Writes nothing.

exit codes: 0 no problem; 1 problems, each on its line; 2 no such folder, layout or category
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_args, get_type_hints

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.config.schema import DataConfig

_CHOICES = get_type_hints(DataConfig)


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("check", __doc__)
    own.add_argument("root", metavar="DIR", help="the data set, as --config.data.root names it")
    own.add_argument("--categories", default="", help="comma list; all that the root holds if not given")
    own.add_argument(
        "--reader",
        default=DataConfig.reader,
        help="auto, prepared, manifest, folder, real_iad, or that of an installed package; default %(default)s: "
        "the first that knows DIR",
    )
    own.add_argument(
        "--incomplete",
        choices=get_args(_CHOICES["incomplete"]),
        default=DataConfig.incomplete,
        help="samples that lack a view are a problem, are left out, or are used; default %(default)s",
    )
    own.add_argument(
        "--bit-depth",
        choices=get_args(_CHOICES["bit_depth"]),
        default=DataConfig.bit_depth,
        help="of images that store 16 bits a channel; default %(default)s: what the training images need",
    )
    own.add_argument(
        "--strict", action="store_true", help="test images of another shape than in training are a problem"
    )
    own.add_argument("--lists", default=DataConfig.lists, help="Real-IAD's layout: folder of lists")
    own.add_argument("--images", default=DataConfig.images, help="Real-IAD's layout: folder of images")
    own.add_argument("--options", default="", help="comma list of other options of the reader, name=value")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = parser().parse(arguments)

    from mvead_jax.data.check import check_data  # not before: --help needs no image libraries
    from mvead_jax.data.check_text import as_text

    checked = check_data(
        given.root,
        _names(given.categories),
        reader=given.reader,
        lists=given.lists,
        images=given.images,
        options=_names(given.options),
        incomplete=given.incomplete,
        bit_depth=given.bit_depth,
        strict=given.strict,
    )
    print(as_text(checked))
    sys.exit(1 if checked.problems else 0)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
