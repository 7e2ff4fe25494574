"""Real-IAD, one model for all categories: Dinomaly on DINOv2-base with registers, 392 x 392.

python scripts/train.py --config configs/dinomaly.py --workdir runs/dinomaly --config.data.root=DIR
python scripts/score.py --workdir runs/dinomaly --protocol dinomaly

`configs/dinomaly.py:single` trains a model for each category, about as long as the released script for MVTec AD.
`configs/dinomaly.py:lite0` takes the embedded EfficientNet-Lite0 at 256 x 256 instead, three blocks of its stage of
112 channels: no hub, for the rendered rig and other small data; its figures are not Dinomaly's.

Cost: 50,000 steps of 15 images (21 epochs of 3 samples with 5 views; the released script takes 16 images).
61 M parameters forward and backward on 784 tokens are 0.29 TFLOP an image and step: 4 to 5 hours of one A100 at
70 % of its float32 peak (computed, not measured), besides one pass of the encoder. The cache of eight taps takes
19 MB an image in float32, 2.9 TB for all of Real-IAD, half with --config.features.dtype=bfloat16: choose
categories.
Figure to expect: the paper's for Real-IAD, multi-class, each image for itself: image AUROC 89.3, AUPRO 93.9; ours
is not measured.
"""

from dataclasses import replace

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.dinomaly.config import DinomalyConfig, DinomalySection, DinomalyTrainConfig
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "published") -> DinomalyConfig:
    if variant == "published":
        return DinomalyConfig()
    if variant == "single":
        section = DinomalySection(dropout=0.2)
        return DinomalyConfig(setting="single", train=DinomalyTrainConfig(epochs=120), dinomaly=section)
    if variant == "lite0":
        section = DinomalySection(taps=("block8", "block9", "block10"), groups=1, heads=7, easy_steps=100)
        return replace(
            DinomalyConfig(),
            setting="single",
            data=DataConfig(image_size=256),
            backbone=BackboneConfig(name="efficientnet-lite0"),
            train=DinomalyTrainConfig(epochs=100),
            dinomaly=section,
        )
    raise UserError(f"configs/dinomaly.py has no variant {variant!r}; it has published, single, lite0")
