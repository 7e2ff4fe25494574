"""Ours, in no paper: banks as PatchCore's, scored by the distance to the hull of the nearest normal patches.

python scripts/train.py --config configs/hull.py --workdir runs/hull --config.data.root=DIR
python scripts/score.py --workdir runs/hull

Nothing is learned by gradient: training extracts features once. With 40 to 100 normal samples a bank has gaps, and
the hull of the 20 nearest patches fills them (mvead_jax/bank/hull.py). The score of an image counts what the other
views see on its epipolar lines (mvead_jax/postprocess/evidence.py); samples, maps and decisions do not.
EfficientNet-Lite0 at 256 pixels needs no hub. docs/study.md has what it gains over PatchCore, and where.

`configs/hull.py:<method>` is the same on another method with memory banks, such as `configs/hull.py:mvead`.
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig


def get_config(method: str = "patchcore") -> Config:
    config = config_of(
        method,
        data=DataConfig(image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
    )
    return override(config, {"score.distance": "hull", "score.image_evidence": "epipolar"})
