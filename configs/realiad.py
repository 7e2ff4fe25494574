"""Real-IAD, one model for each category: PatchCore on DINOv2-base, block 7, 224 x 224.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR
python scripts/score.py --workdir runs/realiad

Cost: 118 GB of feature cache in float32 (151,050 images x 256 patches x 768), half of it with
--config.features.dtype=bfloat16; the bank of a category takes 0.2 GB a view. Running time: not measured.
Figure to expect: the paper's PatchCore rows (image AUROC 88.1 in its table 3); ours is not measured.
"""

from mvead_jax.config import Config


def get_config() -> Config:
    return Config()
