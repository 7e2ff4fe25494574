"""Say whether a data set can be used: open every image and mask, list every problem at once.

    python scripts/check_data.py DIR

DIR is a folder of your own images (train/good/<sample>/<view>.png ...), a manifest.csv or its folder,
Real-IAD's layout, or prepared data: docs/own_data.md. Prints which reader read it, the table of splits
(category, split, good and defective samples, images, masks), the sizes of each view, notes, and the problems:
missing views, images and masks that can't be read or don't fit, masks that brightness does not tell, labels
that contradict their masks, the same image in train and test, too few samples to learn from. Writes nothing.

exit codes: 0 no problem; 1 problems, each on its line; 2 no such folder, layout or category
"""

from __future__ import annotations

import argparse
import sys

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.check import check_data
from mvead_jax.data.check_text import as_text
from mvead_jax.data.deep_images import BIT_DEPTHS
from mvead_jax.data.readers import AUTO, READERS
from mvead_jax.runtime.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("root", metavar="DIR", help="the data set, as --config.data.root names it")
    parser.add_argument("--categories", default="", help="comma list; all that the root holds if not given")
    parser.add_argument(
        "--reader",
        default=AUTO,
        help=f"auto, or {', '.join(READERS.names())}; default %(default)s: the first that knows DIR",
    )
    parser.add_argument(
        "--incomplete",
        choices=("error", "drop", "keep"),
        default="error",
        help="samples that lack a view are a problem, are left out, or are used; default %(default)s",
    )
    parser.add_argument(
        "--bit-depth",
        choices=(AUTO, *map(str, BIT_DEPTHS)),
        default=AUTO,
        help="of images that store 16 bits a channel; default %(default)s: what the training images need",
    )
    parser.add_argument(
        "--strict", action="store_true", help="test images of another shape than in training are a problem"
    )
    parser.add_argument("--lists", default=DataConfig.lists, help="Real-IAD's layout: folder of lists")
    parser.add_argument("--images", default=DataConfig.images, help="Real-IAD's layout: folder of images")
    parser.add_argument("--options", default="", help="comma list of other options of the reader, name=value")
    arguments = parser.parse_args()
    checked = check_data(
        arguments.root,
        _names(arguments.categories),
        reader=arguments.reader,
        lists=arguments.lists,
        images=arguments.images,
        options=_names(arguments.options),
        incomplete=arguments.incomplete,
        bit_depth=arguments.bit_depth,
        strict=arguments.strict,
    )
    print(as_text(checked))
    sys.exit(1 if checked.problems else 0)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    run(main)
