"""Say whether a data set can be used: open every picture and mask, list every problem at once.

    python scripts/check_data.py DIR

DIR is a folder of your own pictures (train/good/<sample>/<view>.png ...), a manifest.csv or its folder,
Real-IAD's layout, or prepared data: docs/own_data.md. Prints the split table (category, split, good and
defective samples, pictures, masks), the sizes of each view, notes, and the problems: missing views, pictures
and masks that can't be read or don't fit, labels that contradict their masks, the same picture in train and
test, too few samples to learn from. Writes nothing.

exit codes: 0 no problem; 1 problems, each on its line; 2 no such folder, layout or category
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mvead_jax.data.check import as_text, check_data
from mvead_jax.runtime.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("root", type=Path, metavar="DIR", help="the data set, as --config.data.root names it")
    parser.add_argument("--categories", default="", help="comma list; all that the root holds if not given")
    parser.add_argument(
        "--incomplete",
        choices=("error", "drop", "keep"),
        default="error",
        help="samples that lack a view are a problem, are left out, or are used; default %(default)s",
    )
    parser.add_argument("--lists", default="realiad_jsons", help="Real-IAD's layout: folder of lists")
    parser.add_argument("--images", default="", help="Real-IAD's layout: folder of images")
    arguments = parser.parse_args()
    categories = [name.strip() for name in arguments.categories.split(",") if name.strip()]
    checked = check_data(
        arguments.root,
        categories,
        lists=arguments.lists,
        images=arguments.images,
        incomplete=arguments.incomplete,
    )
    print(as_text(checked))
    sys.exit(1 if checked.problems else 0)


if __name__ == "__main__":
    run(main)
