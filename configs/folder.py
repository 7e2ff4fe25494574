"""MVEAD on your own images, sorted into folders or listed in a manifest.csv: docs/own_data.md.

python scripts/check_data.py DIR
python scripts/train.py --config configs/folder.py --workdir runs/own --config.data.root=DIR
python scripts/score.py --workdir runs/own

EfficientNet-Lite0 at 256 x 256, which needs no hub; the geometry is estimated from SIFT matches, each pair of
views for itself, since nobody said where the cameras stand (geometry.nominal, or better geometry.cameras,
says it). Any number of views from 1 to 16; one view alone is PatchCore, and the log says so.

`scripts/train.py --dry_run` says what a run will compute and write. Expect what the views allow: the log
names the pairs of views whose geometry is trusted.

`configs/folder.py:patchcore` is the same without fusion of views: the baseline beside it, and enough where
views share little.
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, GeometryConfig


def get_config(method: str = "mvead") -> Config:
    config = config_of(
        method,
        data=DataConfig(image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        geometry=GeometryConfig(nominal=()),
    )
    return override(config, {"train.epochs": "20"}) if hasattr(config, "train") else config
