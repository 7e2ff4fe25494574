"""Prepare a data set once: whole samples in ArrayRecord (TFDS), and a report of what is in it.

    mvead prepare --root DIR --output data/realiad_256 --images realiad_256

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

from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.config.schema import DataConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("prepare", __doc__)
    own.add_argument("--root", type=expanded, required=True, help="folder of the data set")
    own.add_argument("--output", type=expanded, help="folder of the prepared data")
    own.add_argument("--categories", default="", help="comma list; all that the root holds if not given")
    own.add_argument("--lists", default="realiad_jsons", help="folder of lists below the root (data.lists)")
    own.add_argument(
        "--images", default="", help="folder of images below the root, if there are several (data.images)"
    )
    own.add_argument("--options", default="", help="comma list of other options of the reader, name=value")
    own.add_argument(
        "--reader",
        default=DataConfig.reader,
        help="auto, or the name of one (docs/data_sets.md); default %(default)s: the first that knows the root",
    )
    own.add_argument("--report-only", action="store_true", help="print the report, prepare nothing")
    own.add_argument(
        "--allow-other-counts", action="store_true", help="go on when the counts are not the published ones"
    )
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = parser().parse(arguments)

    from mvead_jax.data.inventory import as_markdown, data_report, digests_of
    from mvead_jax.data.readers import read_data  # not before: --help needs no image libraries
    from mvead_jax.data.tfds_realiad.prepare import check_counts, prepare

    chosen = {
        "categories": tuple(name.strip() for name in given.categories.split(",") if name.strip()),
        "reader": given.reader,
        "lists": given.lists,
        "images": given.images,
        "options": tuple(name.strip() for name in given.options.split(",") if name.strip()),
    }
    if given.report_only:
        data = DataConfig(root=str(given.root), incomplete="keep", **chosen)
        index = read_data(data).index()
        print(as_markdown(data_report(index, given.lists, digests_of(index))), end="")
        check_counts(data, index.samples, given.allow_other_counts)
    elif given.output is None:
        raise UserError("--output is missing; name a folder for the prepared data, or ask for --report-only")
    else:
        allow = given.allow_other_counts
        for path in prepare(given.root, given.output, **chosen, allow_other_counts=allow):
            print(f"report: {path}")
        print(f"prepared: train with --config.data.root={given.output}")
