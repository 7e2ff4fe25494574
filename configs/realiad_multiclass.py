"""Real-IAD, one model for all categories: MVEAD on DINOv2-base, block 7, 224 x 224, as in the paper.

python scripts/train.py --config configs/realiad_multiclass.py --workdir runs/multi --config.data.root=DIR
python scripts/score.py --workdir runs/multi

Cost: the feature cache of configs/realiad.py (shared with it where the workdirs are neighbours); the full
bank of 30 categories takes 29 GB in float32, 5.7 GB a view. Running time: not measured.
Figure to expect: the paper's multi-class rows (its tables 1 and 2); ours is not measured.
"""

from mvead_jax.methods.mvead.config import MveadConfig


def get_config() -> MveadConfig:
    return MveadConfig(setting="multi")
