"""PatchCore on the embedded EfficientNet-Lite0, 256 x 256: needs no hub, for any data in Real-IAD layout.

python scripts/train.py --config configs/patchcore.py --workdir runs/patchcore --config.data.root=DIR
python scripts/score.py --workdir runs/patchcore

Cost: 24 GB of feature cache for all of Real-IAD (256 patches x 152 in float32). Running time: not measured.
"""

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.patchcore.config import PatchCoreConfig


def get_config() -> PatchCoreConfig:
    return PatchCoreConfig(
        data=DataConfig(image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
    )
