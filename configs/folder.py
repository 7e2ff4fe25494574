"""MVEAD on your own pictures, sorted into folders or listed in a manifest.csv: docs/own_data.md.

python scripts/check_data.py DIR
python scripts/train.py --config configs/folder.py --workdir runs/own --config.data.root=DIR
python scripts/score.py --workdir runs/own

EfficientNet-Lite0 at 256 x 256, which needs no hub; the geometry is estimated from SIFT matches, each pair of
views for itself, since nobody said where the cameras stand (geometry.nominal, or better geometry.cameras,
says it). Any number of views from 1 to 16; one view alone is PatchCore, and the log says so.

Cost, on the rendered flange in folders (three views of three sizes, 40 samples to learn from and 40 to score;
2-core AMD EPYC shared with other jobs): training 1 min 47 s, scoring 37 s, 37 MB of features. Expect what the
views allow: there 1 of 3 pairs was trusted, and sample AUROC was 72.1 [55.5, 86.5], PatchCore's 74.0 [57.8,
87.5]; all five views do better (configs/demo.py).

`configs/folder.py:patchcore` is the same without fusion of views: the baseline beside it, and enough where
views share little.
"""

from mvead_jax.config import BackboneConfig, Config, DataConfig, GeometryConfig, TrainConfig


def get_config(method: str = "mvead") -> Config:
    return Config(
        method=method,
        data=DataConfig(image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        geometry=GeometryConfig(nominal=()),
        train=TrainConfig(epochs=20),
    )
