"""PatchCore on the embedded EfficientNet-Lite0, 256 x 256: needs no hub, for any data in Real-IAD layout.

python scripts/train.py --config configs/patchcore.py --workdir runs/patchcore --config.data.root=DIR
python scripts/score.py --workdir runs/patchcore

`configs/patchcore.py:published` is the method as its paper has it: Wide ResNet-50-2, layers 2 and 3, means of 3 x 3
cells, 1,024 values a patch, one coreset of 10 % for all views, image scores weighted by nine rows, maps smoothed by a
gaussian of sigma 4 (the default protocol); 224 x 224, resized without cropping. `configs/patchcore.py:published_lite0`
is that on Lite0's feature maps of stride 8 and 16, all 152 channels.

Cost: 24 GB of feature cache for all of Real-IAD (256 patches x 152 in float32); as published 363 GB (784 x 512 and
196 x 1,024). Running time: not measured.
Figures to expect, as published: the paper's for MVTec AD, image AUROC 99.0 (10 %, 224 pixels); for Real-IAD those of
the seeds' tables.
"""

from mvead_jax.bank.config import BankConfig
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.patchcore.config import PatchCoreConfig, PatchCoreSection
from mvead_jax.runtime.errors import UserError

_ONE_CORESET = BankConfig(kind="coreset", share=0.1, projection=128, per_view=False)


def get_config(variant: str = "lite0") -> PatchCoreConfig:
    if variant == "lite0":
        return PatchCoreConfig(
            data=DataConfig(image_size=256),
            backbone=BackboneConfig(name="efficientnet-lite0"),
        )
    if variant == "published":
        section = PatchCoreSection(("layer2", "layer3"), neighbourhood=3, width=1024, reweight=9)
        backbone = BackboneConfig(name="wide_resnet50_2")
        return PatchCoreConfig(backbone=backbone, bank=_ONE_CORESET, patchcore=section)
    if variant == "published_lite0":
        return PatchCoreConfig(
            data=DataConfig(image_size=256),
            backbone=BackboneConfig(name="efficientnet-lite0"),
            bank=_ONE_CORESET,
            patchcore=PatchCoreSection(("stride8", "stride16"), neighbourhood=3, reweight=9),
        )
    raise UserError(
        f"configs/patchcore.py has no variant {variant!r}; it has lite0, published, published_lite0"
    )
