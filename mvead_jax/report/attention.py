"""attended/<category>.npz of a scores folder: which patches each patch of a few samples attended to.

"samples" [n] their names; "patches" [n,V,N,K] b N + k of the K patches that got most attention; "weights"
float16 [n,V,N,K] their shares of the attention, 0 where there was none; "views" [V] those of the model.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import whole


@dataclass(frozen=True)
class Attended:
    """Of some samples of a category. patches: b N + k."""

    samples: tuple[str, ...]
    views: tuple[str, ...]
    patches: Int[np.ndarray, "n V N K"]
    weights: Float[np.ndarray, "n V N K"]


def telling(scores: Sequence[float], labels: Sequence[int | None], each: int = 4) -> Int[np.ndarray, " n"]:
    """The samples of a category that people open first: the `each` defective ones of the lowest score, the
    normal ones of the highest, and the highest of all; without labels three times `each` of the highest.

    Returns:
      Their places, ascending, each once.
    """
    scores, labels = np.asarray(scores), np.array([-1 if label is None else label for label in labels])
    down = np.argsort(-scores, kind="stable")
    normal, defective = (down[labels[down] == label] for label in (0, 1))
    most = each if len(normal) + len(defective) else 3 * each
    return np.unique(np.concatenate([defective[::-1][:each], normal[:each], down[:most]]))


def attended_path(folder: Path, category: str) -> Path:
    return folder / "attended" / f"{category}.npz"


def write_attended(path: Path, found: Attended) -> None:
    """Writes it whole."""
    views, patches = found.patches.shape[1:3]
    kind = np.min_scalar_type(views * patches - 1)
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            samples=np.array(found.samples, str),
            views=np.array(found.views, str),
            patches=found.patches.astype(kind),
            weights=found.weights.astype(np.float16),
        )


def read_attended(path: Path) -> Attended | None:
    """What `write_attended` wrote; None where there is no such file.

    Raises:
      UserError: something else.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            found = Attended(
                tuple(file["samples"].tolist()),
                tuple(file["views"].tolist()),
                file["patches"].astype(np.int64),
                file["weights"],
            )
        if found.patches.shape != found.weights.shape or len(found.patches) != len(found.samples):
            raise ValueError("shapes")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not written by score.py ({error!r}); score again") from error
    return found


def of_sample(
    found: Attended | None, sample: str, views: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """(patches [v,N,K] as b N + k, weights [v,N,K]) of one sample, with views counted as in `views`.

    None where it was not kept. Attention to a view that is not among `views` weighs 0.
    """
    if found is None or sample not in found.samples:
        return None
    at = found.samples.index(sample)
    own = [found.views.index(name) for name in views]
    patches, weights = found.patches[at][own], found.weights[at][own].astype(np.float32)
    count = patches.shape[1]
    places = np.array([list(views).index(name) if name in views else -1 for name in found.views])
    view = places[patches // count]
    return np.where(view < 0, 0, view * count + patches % count), np.where(view < 0, 0, weights)
