"""MVEAD on the rendered inspection rig, with the embedded EfficientNet-Lite0: what `make demo` runs, with 60
parts to learn from, of which decision.held_out keeps 20 back.

Two categories of 80 samples: three and a half minutes with the rendering on two cores, a sample AUROC of 84
to 95 per category. 20 epochs where the paper has 50: more change little here (docs/study.md).

python scripts/render_rig.py --output data/rig
python scripts/train.py --config configs/demo.py --workdir runs/demo
python scripts/score.py --workdir runs/demo

`configs/demo.py:patchcore` is the same without fusion of views: the baseline beside it. Both share
the features in runs/demo.
"""

from mvead_jax.config import BackboneConfig, Config, DataConfig, FeaturesConfig, TrainConfig


def get_config(method: str = "mvead") -> Config:
    return Config(
        method=method,
        data=DataConfig(root="data/rig", image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        features=FeaturesConfig(cache="runs/demo/feature_cache"),
        train=TrainConfig(epochs=20),
    )
