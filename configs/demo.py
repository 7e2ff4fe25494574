"""The rendered inspection rig on the embedded EfficientNet-Lite0: what `make demo` runs.

python scripts/render_rig.py --output data/rig
python scripts/train.py --config configs/demo.py --workdir runs/demo
python scripts/score.py --workdir runs/demo

`configs/demo.py:patchcore` is the same without fusion of views: the baseline beside it. Both share
the features in runs/demo.
"""

from mvead_jax.config import BackboneConfig, Config, DataConfig, FeaturesConfig


def get_config(method: str = "mvead") -> Config:
    return Config(
        method=method,
        data=DataConfig(root="data/rig", image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        features=FeaturesConfig(cache="runs/demo/feature_cache"),
    )
