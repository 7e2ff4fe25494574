"""Real-IAD, one model for each category: MVEAD on DINOv2-base, block 7, 224 x 224, as in the paper.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR
python scripts/score.py --workdir runs/realiad

`--config.method=patchcore` is the baseline without fusion of views. The geometry is estimated from the normal
images unless --config.geometry.cameras names a cameras.json.

Cost: 119 GB of feature cache in float32 (151,050 images x 256 patches x 768), half of it with
--config.features.dtype=bfloat16; the bank of a category takes 0.2 GB a view. Running time: not measured here;
the paper trained its multi-class model 9.3 hours on an A5000.
Figure to expect: the paper's rows (image AUROC 91.5 in its table 3, PatchCore 88.1); ours is not measured.
"""

from mvead_jax.methods.mvead.config import MveadConfig


def get_config() -> MveadConfig:
    return MveadConfig()
