"""MVEAD on the rendered inspection rig, with the embedded EfficientNet-Lite0: what `make demo` runs.

Two categories of 60 samples to learn from, a third of them held out for the decision, and 40 to score; what
to expect is the README's table. 20 epochs where the paper has 50: more change little here (docs/study.md).

python scripts/render_rig.py --train 60 --output data/rig
python scripts/train.py --config configs/demo.py --workdir runs/demo --config.decision.held_out=0.33
python scripts/score.py --workdir runs/demo

`configs/demo.py:patchcore` is the same without fusion of views: the baseline beside it. Both share
the features in runs/demo.
"""

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, FeaturesConfig, TrainConfig


def get_config(method: str = "mvead") -> Config:
    return Config(
        method=method,
        data=DataConfig(root="data/rig", image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        features=FeaturesConfig(cache="runs/demo/feature_cache"),
        train=TrainConfig(epochs=20),
    )
