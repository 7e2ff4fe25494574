"""Training samples as they are and with pseudo-anomalies, for methods that learn from both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from mvead_jax.data.augmentation.anomalies import Change, change_sample, paste_texture
from mvead_jax.data.augmentation.textures import digest_of, source_of
from mvead_jax.data.loading import iterate
from mvead_jax.methods.base import TrainData
from mvead_jax.methods.batches import filled_up, read_features
from mvead_jax.runtime import sharding


def textured_batches(
    data: TrainData, textures: str, most_of_image: float, seed: int, *, teach_changed: bool
) -> ChangedBatches:
    """Return batches whose changed images have textures pasted on them.

    Args:
      textures: a folder of images; empty: they are drawn by formulas. most_of_image: the share of the image that
        shines through is drawn from 0 to this.
      seed, teach_changed: as of `ChangedBatches`.
    """
    change = partial(paste_texture, source=source_of(textures), most_of_image=most_of_image)
    return ChangedBatches(data, change, seed, teach_changed)


def texture_digests(field: str, textures: str) -> dict[str, str]:
    """Return a digest of the textures under the config's field that names their folder; none of formulas."""
    found = digest_of(textures)
    return {field: found} if found else {}


@dataclass(frozen=True)
class ChangedBatches:
    """Batches of the training samples as they are and changed, anew in each epoch.

    Attributes:
      change: what is done to an image. seed: with epoch, sample and view it decides how.
      teach_changed: whether the backbone looks at the changed images too.
    """

    data: TrainData
    change: Change
    seed: int
    teach_changed: bool
    _present: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_present", self.data.index.present())

    def read(self, chosen: Int[np.ndarray, " n"], size: int, epoch: int) -> dict[str, Any]:
        """Return some samples over the mesh, filled up by repeats that weigh nothing.

        Returns:
          "features" {tap: [B,V,h,w,D]} of the images as they are, "changed" [B,V,H,W,3], "masks" [B,V,H,W] of 0 and 1,
          "present" [B,V], "weight" [B], and with `teach_changed` "changed_features" like "features".
        """
        filled, weight = filled_up(chosen, size)
        changed, masks = self._changed(filled, epoch)
        batch = {
            "features": read_features(self.data.features, filled),
            "changed": changed,
            "masks": masks.astype(np.float32),
            "present": self._present[filled],
            "weight": weight,
        }
        if self.teach_changed:
            batch["changed_features"] = self._features(changed)
        return sharding.place(batch)

    def _changed(self, rows: Int[np.ndarray, " n"], epoch: int) -> tuple[np.ndarray, np.ndarray]:
        images, index = self.data.images(rows), self.data.index
        change = partial(change_sample, change=self.change, seed=self.seed, epoch=epoch)

        def of_place(place: int) -> tuple[np.ndarray, np.ndarray]:
            sample = int(rows[place])
            return change(images[place], self._present[sample], sample=index.samples[sample].id)

        found = list(iterate(grain.MapDataset.source(list(range(len(rows)))).map(of_place)))
        return tuple(np.stack(parts) for parts in zip(*found, strict=True))

    def _features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = self.data.backbone(images.reshape(-1, *images.shape[2:]))
        return {tap: np.asarray(x).reshape(*images.shape[:2], *x.shape[1:]) for tap, x in maps.items()}
