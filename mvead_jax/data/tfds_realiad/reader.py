"""The reader of prepared data, as readers.Reader; without TFDS, which takes a second to load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvead_jax.data.realiad import RealIadOptions, list_views
from mvead_jax.data.realiad_counts import unexpected_counts
from mvead_jax.data.records import Incomplete, Listing, Sample
from mvead_jax.data.tfds_realiad.layout import REAL_IAD, is_prepared, prepared_from


class PreparedReader:
    """What mvead prepare made of a data set of another layout."""

    layout = "what mvead prepare wrote"
    options = RealIadOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` is a folder of prepared data, finished or not."""
        return is_prepared(root)

    def read(
        self, root: Path, categories: Sequence[str], options: RealIadOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the reader of the files found, from the records."""
        from mvead_jax.data.tfds_realiad.reading import read_records

        return read_records(
            root, categories, lists=options.lists, images=options.images, incomplete=incomplete
        )

    def check(self, samples: Sequence[Sample], options: RealIadOptions) -> list[str]:
        """Return the counts of all thirty categories that are not Real-IAD's."""
        return unexpected_counts(samples, options.lists)

    def words(self, root: Path, options: RealIadOptions, views: Sequence[str]) -> dict[str, str]:
        """Return the lists and which views they hold, or that the data was prepared from none."""
        origin = prepared_from(root)
        if origin == {REAL_IAD}:
            return {"lists": options.lists, "list_views": list_views(options.lists, views)}
        return {"lists": f"none: {', '.join(sorted(origin))}", "list_views": f"all views: {', '.join(views)}"}


READER = PreparedReader()
