r"""RD4AD on Wide ResNet-50-2, 256 x 256, one model for each category, as its released code has it.

python scripts/train.py --config configs/rd4ad.py --workdir runs/rd4ad --config.data.root=DIR
python scripts/score.py --workdir runs/rd4ad

    configs/rd4ad.py:ader        ADer's: narrower neck, 100 epochs, clipped, one step down; for
                                 --config.setting=multi, with timm's weights named by --config.backbone.weights
    configs/rd4ad.py:resnet18    the released code's smallest teacher
    configs/rd4ad.py:lite0       EfficientNet-Lite0, for which no hub is needed (the rendered rig)

Cost: 83.8 M parameters are trained (1.0 GB with Adam's moments); a step of 15 images is 1.6 TFLOP, so a category
of Real-IAD (some 240 samples, 200 epochs) takes 1.1 hours on an A100 at a third of its 19.5 TFLOP/s in float32:
computed, not measured. The feature cache takes 7.3 MB an image.
Figure to expect: the paper has image AUROC 98.5 on MVTec AD. Ours is not measured.
"""

from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.rd4ad.config import Rd4adConfig, Rd4adSection, Rd4adTrainConfig
from mvead_jax.runtime.errors import UserError

_SMALL = Rd4adSection(block="basic", neck_blocks=2, decoder_blocks=(2, 2, 2))


def get_config(variant: str = "released") -> Rd4adConfig:
    match variant:
        case "released":
            return Rd4adConfig()
        case "ader":
            train = Rd4adTrainConfig(epochs=100, schedule="step", clip=5.0)
            return Rd4adConfig(rd4ad=Rd4adSection(variant="ader"), train=train)
        case "resnet18":
            return Rd4adConfig(backbone=BackboneConfig(name="resnet18"), rd4ad=_SMALL)
        case "lite0":
            return Rd4adConfig(backbone=BackboneConfig(name="efficientnet-lite0"))
    raise UserError(f"configs/rd4ad.py:{variant}: no such variant; choose released, ader, resnet18 or lite0")
