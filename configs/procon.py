"""Real-IAD, a model for each category: ProCon's soft projection on DINOv2-base, blocks 4, 5, 7 and 10, 392 x 392.

python scripts/train.py --config configs/procon.py --workdir runs/procon --config.data.root=DIR
python scripts/score.py --workdir runs/procon

`configs/procon.py:lite0` takes three blocks of the embedded EfficientNet-Lite0 at 256 x 256: no hub.

Cost: nothing is trained. Four taps of 784 x 768 take 9.6 MB an image in float32, 1.5 TB for all of Real-IAD, half with
--config.features.dtype=bfloat16: choose categories. Twenty coresets of 1 % of a category's 0.95 million patches are
0.4 GB. Running time: not measured.
Figures to expect: the paper's for Real-IAD, image AUROC 93.15, pixel AP 49.35, AUPRO 97.19; ours is not measured.
"""

from dataclasses import replace

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.procon.config import ProconConfig, ProconSection
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "published") -> ProconConfig:
    if variant == "published":
        return ProconConfig()
    if variant == "lite0":
        return replace(
            ProconConfig(),
            data=DataConfig(image_size=256),
            backbone=BackboneConfig(name="efficientnet-lite0"),
            procon=ProconSection(taps=("block8", "block9", "block10")),
        )
    raise UserError(f"configs/procon.py has no variant {variant!r}; it has published, lite0")
