"""Real-IAD, a model for each category: DeSTSeg with a ResNet-18 as teacher, 256 x 256.

python scripts/train.py --config configs/destseg.py --workdir runs/destseg --config.data.root=DIR
python scripts/score.py --workdir runs/destseg

Pseudo-anomalies are textures drawn by formulas; --config.destseg.textures=FOLDER takes images, as the paper those of
DTD. `configs/destseg.py:lite0` has the embedded EfficientNet-Lite0 as teacher, for the rendered rig: no hub.

Cost: 5,000 steps of 30 images (125 epochs of 40 batches of 6 samples with 5 views). The segmentation network forward
and backward is 0.19 TFLOP an image: 40 to 50 minutes of one A100 at 50 % of its float32 peak for each category
(computed, not measured), if the pseudo-anomalies, some 20 ms an image, are made by enough processor cores.
Figures to expect: none published for Real-IAD by its authors; the tables of the seeds have it among the baselines.
"""

from dataclasses import replace

from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.destseg.config import DestsegConfig
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "published") -> DestsegConfig:
    if variant == "published":
        return DestsegConfig()
    if variant == "lite0":
        return replace(DestsegConfig(), backbone=BackboneConfig(name="efficientnet-lite0"))
    raise UserError(f"configs/destseg.py has no variant {variant!r}; it has published, lite0")
