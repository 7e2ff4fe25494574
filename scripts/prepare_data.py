"""Prepare a data set once: whole samples in ArrayRecord (TFDS), and a report of what is in it.

    python scripts/prepare_data.py --root DIR --output data/realiad_256 --images realiad_256

Then train with --config.data.root=data/realiad_256: same features, same scores. Images are kept as they
are, so the output is as large as the input. Killed, it goes on where it stopped: a category is whole or not
there.
The report (report-<config>.md and .json in the output) counts by category, split, class, view and defect, and
names images that are the same. --report-only prints it, of raw or prepared data, and prepares nothing.
The root may have any layout that a reader knows (docs/own_data.md, docs/data_sets.md).

exit codes: 0 prepared, or the report printed; 2 a mistake in the command or the data, counts that are not the
published ones, or no room on the disk; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

import argparse

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.inventory import as_markdown, data_report, digests_of
from mvead_jax.data.readers import AUTO, READERS, read_data
from mvead_jax.data.tfds_realiad.prepare import check_counts, prepare
from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.paths import expanded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=expanded, required=True, help="folder of the data set")
    parser.add_argument("--output", type=expanded, help="folder of the prepared data")
    parser.add_argument("--categories", default="", help="comma list; all that the root holds if not given")
    parser.add_argument(
        "--lists", default="realiad_jsons", help="folder of lists below the root (data.lists)"
    )
    parser.add_argument(
        "--images", default="", help="folder of images below the root, if there are several (data.images)"
    )
    parser.add_argument("--options", default="", help="comma list of other options of the reader, name=value")
    parser.add_argument(
        "--reader",
        default=AUTO,
        help=f"auto, or {', '.join(READERS.names())}; default %(default)s: the first that knows the root",
    )
    parser.add_argument("--report-only", action="store_true", help="print the report, prepare nothing")
    parser.add_argument(
        "--allow-other-counts", action="store_true", help="go on when the counts are not the published ones"
    )
    arguments = parser.parse_args()
    chosen = {
        "categories": tuple(name.strip() for name in arguments.categories.split(",") if name.strip()),
        "reader": arguments.reader,
        "lists": arguments.lists,
        "images": arguments.images,
        "options": tuple(name.strip() for name in arguments.options.split(",") if name.strip()),
    }
    if arguments.report_only:
        data = DataConfig(root=str(arguments.root), incomplete="keep", **chosen)
        index = read_data(data).index()
        print(as_markdown(data_report(index, arguments.lists, digests_of(index))), end="")
        check_counts(data, index.samples, arguments.allow_other_counts)
    elif arguments.output is None:
        raise UserError("--output is missing; name a folder for the prepared data, or ask for --report-only")
    else:
        allow = arguments.allow_other_counts
        for path in prepare(arguments.root, arguments.output, **chosen, allow_other_counts=allow):
            print(f"report: {path}")
        print(f"prepared: train with --config.data.root={arguments.output}")


if __name__ == "__main__":
    run(main)
