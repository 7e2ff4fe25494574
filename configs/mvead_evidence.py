"""Ours, in no paper: PatchCore or MVEAD with evidence added along epipolar lines.

python scripts/train.py --config configs/mvead_evidence.py --workdir runs/evidence --config.data.root=DIR
python scripts/score.py --workdir runs/evidence

Patch scores are standardised by view, and each gains the highest score on its epipolar lines in the other
views (mvead_jax/postprocess/evidence.py). `configs/mvead_evidence.py:mvead` does so with attended features.
DINOv2-base; for the rendered rig, or any data without a hub, add --config.backbone.name=efficientnet-lite0
--config.data.image_size=256. docs/study.md has what it gained there.
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import Config


def get_config(method: str = "patchcore") -> Config:
    return override(config_of(method), {"score.evidence": "epipolar", "score.weight": "0.5"})
