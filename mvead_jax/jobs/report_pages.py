"""What a scoring leaves only to look at: it may fail, which is said, and takes no score along.

attended/<category>.npz   what the patches of a few telling samples attended to
report/index.html         the page
overlays/                 heat over every image, where that is asked for
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import Ignored, read_stored
from mvead_jax.data.records import DatasetIndex
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.geometry.category import read_geometry
from mvead_jax.jobs.estimate_geometry import geometry_path
from mvead_jax.jobs.workdir import model_folder, model_names
from mvead_jax.report.attention import Attended, attended_path, telling, write_attended
from mvead_jax.report.overlays import write_overlays
from mvead_jax.report.page import write_report
from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

# Of places among a category's samples: patches and weights of Scorer.attended, None if there are none.
Attend = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None]


def keep_attended(
    output: Path,
    category: str,
    found: Sequence[ScoredSample],
    attend: Attend,
) -> None:
    """attended/<category>.npz of the samples that tell most, if the method attends to anything."""
    with _only_to_look_at(f"{category}: what patches attended to"):
        places = telling([one.score for one in found], [one.sample.label for one in found])
        if (kept := attend(places)) is not None:
            samples = tuple(found[place].sample.id for place in places)
            write_attended(attended_path(output, category), Attended(samples, found[0].views, *kept))


def write_page(output: Path, index: DatasetIndex, workdir: Path, usual: Path | None = None) -> None:
    """report/index.html; usual: scores of the test split, by whose scale new images are drawn."""
    with _only_to_look_at(f"{output / 'report'}: the report"):
        paths = {category: geometry_path(workdir, category) for category in index.categories}
        geometries = {category: read_geometry(path) for category, path in paths.items() if path.exists()}
        write_report(output, index, geometries, usual, _ignored(workdir))


def write_images(output: Path, index: DatasetIndex, workdir: Path, usual: Path | None = None) -> None:
    """overlays/: heat over every image as a file. Arguments as of `write_page`."""
    with _only_to_look_at(f"{output / 'overlays'}: the overlays"):
        write_overlays(output, index, usual, _ignored(workdir))


def _ignored(workdir: Path) -> dict[str, Ignored]:
    """Masks by category, as the models of a workdir keep them."""
    own = [read_stored(model_folder(workdir, name) / IGNORED) for name in model_names(workdir)]
    return {category: masks for one in own for category, masks in one.items()}


@contextmanager
def _only_to_look_at(what: str) -> Iterator[None]:
    """Says that it is not there if the block fails: the scores are."""
    try:
        yield
    except (UserError, OSError) as error:
        log.warning("%s is not there (%s); the scores are whole", what, error)
    except Exception:  # whatever it is, it must not take the scores along
        log.warning("%s is not there; the scores are whole", what, exc_info=True)
