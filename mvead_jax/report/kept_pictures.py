"""The pictures and outlines that a report in a scores folder holds, for other pages: no data set is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mvead_jax.data.records import natural_key
from mvead_jax.report.findings import FoundSample
from mvead_jax.runtime.errors import UserError


class KeptPictures:
    """The pictures of one report. samples: of its scores folder; a report numbers the views of a category."""

    def __init__(self, folder: Path, samples: Sequence[FoundSample]):
        self._place = folder / "report"
        names: dict[str, set[str]] = {}
        for one in samples:
            names.setdefault(one.category, set()).update(view.name for view in one.views)
        self._views = {category: sorted(own, key=natural_key) for category, own in names.items()}

    @property
    def there(self) -> bool:
        """Whether the scores folder has a report."""
        return (self._place / "index.html").is_file()

    def read(self, sample: FoundSample) -> dict[str, tuple[Image.Image, str]]:
        """Return the picture of each view of a sample, and the outline of its mask as an SVG path over 1,000 units of
        each side; none of a sample that the report does not picture.

        Raises:
          UserError: a file of the report is damaged.
        """
        path = self._place / "samples" / f"{sample.number}.js"
        if not path.is_file():
            return {}
        try:
            text = path.read_text(encoding="utf-8").strip()
            content = json.loads(text.removeprefix(f"report.receive({sample.number},").removesuffix(");"))
            found = {}
            for one in content["views"]:
                picture = self._place / "pictures" / str(sample.number) / f"{one['view']}.webp"
                with Image.open(picture, formats=["WEBP"]) as image:
                    found[self._views[sample.category][one["view"]]] = (
                        image.convert("RGB"),
                        str(one["outline"]),
                    )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{path}: not of a whole report ({error}); write it again by mvead score --from-maps"
            ) from error
        return found
