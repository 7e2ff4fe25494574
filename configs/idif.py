r"""IDIF (seed 004, AAAI 2025): a student that all views of a sample help to see past pseudo-anomalies, 256 x 256.

python scripts/train.py --config configs/idif.py --workdir runs/idif --config.data.root=DIR
python scripts/score.py --workdir runs/idif

    configs/idif.py:lite0                  EfficientNet-Lite0 as teacher: needs no hub (the rendered rig)
    configs/idif.py:lite0_no_bottleneck    the ablation: the voxel gets all of a view's features
    configs/idif.py:lite0_no_voxel         each view for itself
    configs/idif.py:lite0_no_dropout       no view is left out in training

There is no public code: most numbers are ours (docs/method.md). Pseudo-anomalies are textures drawn by formulas;
--config.idif.textures=FOLDER takes images.

Cost: 9 GFLOP an image forward, 26 with its gradient; 60,000 images a category of Real-IAD (240 samples of 5 views, 50
epochs) are 1.6 PFLOP, some 3 minutes of one A100 at half its float32 peak. The pseudo-anomalies take longer: 20 ms of a
processor core an image, 20 minutes. Computed, not measured.
Figures to expect on Real-IAD, one model a category, the paper's: sample AUROC 97.0, pixel AUROC 98.9; with 1, 2, 3, 4
views missing sample AUROC 95.9, 95.7, 95.1, 94.0. Not measured here.
"""

from mvead_jax.config.io import override
from mvead_jax.methods.idif.config import IdifConfig
from mvead_jax.runtime.errors import UserError

_LITE0 = {"backbone.name": "efficientnet-lite0"}
VARIANTS = {
    "published": {},
    "lite0": _LITE0,
    "lite0_no_bottleneck": _LITE0 | {"idif.bottleneck": "none"},
    "lite0_no_voxel": _LITE0 | {"idif.fusion": "none"},
    "lite0_no_dropout": _LITE0 | {"idif.view_dropout": "0"},
}


def get_config(variant: str = "published") -> IdifConfig:
    if variant not in VARIANTS:
        raise UserError(f"configs/idif.py:{variant}: no such variant; choose {', '.join(VARIANTS)}")
    return override(IdifConfig(), VARIANTS[variant])
