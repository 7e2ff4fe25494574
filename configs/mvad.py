"""MVAD (seed 003): a student gives back a frozen ResNet-34's maps after window attention over views, as released.

python scripts/train.py --config configs/mvad.py --workdir runs/mvad --config.data.root=DIR --config.setting=multi
python scripts/score.py --workdir runs/mvad --protocol mvad-released

Cost, computed: 144 GFLOP a sample and step with cached teacher maps, so 105 PFLOP for 100 epochs of all of Real-IAD in
one model: about 3 hours of one A100 in float32 at half its peak, and 31 GB of cached maps (0.86 MB an image). Expected
on Real-IAD, multi-class, by the released log: sample AUROC 90.2, image 86.6, pixel 97.9, AUPRO 91.2. Not measured here.

`configs/mvad.py:lite0` has EfficientNet-Lite0's maps in the ResNet's place: needs no hub; docs/results.md has what it
gives on the rendered rig. `configs/mvad.py:paper` has the paper's windows (8, 8, 8; the best 16, 32, 64), maps before
the attention and a plain sum over scales.
"""

from mvead_jax.config.io import override
from mvead_jax.methods.mvad.config import MvadConfig
from mvead_jax.runtime.errors import UserError

VARIANTS = {
    "released": {},
    "paper": {
        "mvad.windows": "8,8,8",
        "mvad.top": "16,32,64",
        "mvad.projections": "linear",
        "mvad.loss_weight": "1",
    },
    "lite0": {"backbone.name": "efficientnet-lite0"},
}


def get_config(variant: str = "released") -> MvadConfig:
    if variant not in VARIANTS:
        raise UserError(f"configs/mvad.py:{variant}: no such variant; choose {', '.join(VARIANTS)}")
    return override(MvadConfig(), VARIANTS[variant])
