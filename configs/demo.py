"""The rendered inspection rig, PatchCore on the embedded EfficientNet-Lite0: what `make demo` runs.

Two categories of 80 samples: about two minutes with the rendering on two cores, a sample AUROC of 80 to 97
per category. The features lie in runs/demo, so that deleting it leaves nothing behind.

python scripts/render_rig.py --output data/rig
python scripts/train.py --config configs/demo.py --workdir runs/demo
python scripts/score.py --workdir runs/demo
"""

from mvead_jax.config import BackboneConfig, Config, DataConfig, FeaturesConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(root="data/rig", image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        features=FeaturesConfig(cache="runs/demo/feature_cache"),
    )
