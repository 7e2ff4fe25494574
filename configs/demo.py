"""MVEAD on the rendered inspection rig, with the embedded EfficientNet-Lite0: what `make demo` runs.

Two categories of 60 samples to learn from, a third of them held out for the decision, and 40 to score; what
to expect is the README's table. 20 epochs where the paper has 50: more change little here (docs/study.md).

python scripts/render_rig.py --train 60 --output data/rig
python scripts/train.py --config configs/demo.py --workdir runs/demo --config.decision.held_out=0.33
python scripts/score.py --workdir runs/demo

`configs/demo.py:<method>` is another method of mvead_jax/methods/registry.py, and `configs/demo.py:hull` what
configs/hull.py changes: `make demo` sets PatchCore, MVEAD and the hull beside each other. All share the features in
runs/demo.
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, FeaturesConfig

HULL = {"score.distance": "hull", "score.image_evidence": "epipolar"}  # as configs/hull.py


def get_config(method: str = "mvead") -> Config:
    config = config_of(
        "patchcore" if method == "hull" else method,
        data=DataConfig(root="data/rig", image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        features=FeaturesConfig(cache="runs/demo/feature_cache"),
    )
    if method == "hull":
        return override(config, HULL)
    return override(config, {"train.epochs": "20"}) if hasattr(config, "train") else config
