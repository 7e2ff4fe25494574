r"""PaDiM on ResNet-18, 256 x 256, 100 channels, one model for each category.

python scripts/train.py --config configs/padim.py --workdir runs/padim --config.data.root=DIR
python scripts/score.py --workdir runs/padim

    configs/padim.py:wide       Wide ResNet-50-2 with 550 channels, the paper's best (5 GB of Gaussians a view)
    configs/padim.py:anomalib   anomalib's choice of channels, regularisation and smoothing
    configs/padim.py:lite0      EfficientNet-Lite0, for which no hub is needed (the rendered rig)

Cost: nothing is trained; the Gaussians of a view take 164 MB on the disk and twice that in memory. The feature
cache takes 1.8 MB an image. Fitting a view of 240 images takes 3 s of one CPU core, measured.
Figure to expect: the paper has image AUROC 95.3 on MVTec AD (Wide ResNet-50-2). Ours is not measured.
"""

from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.padim.config import PadimConfig, PadimSection
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "port") -> PadimConfig:
    match variant:
        case "port":
            return PadimConfig()
        case "wide":
            backbone = BackboneConfig(name="wide_resnet50_2")
            return PadimConfig(backbone=backbone, padim=PadimSection(channels=550))
        case "anomalib":
            return PadimConfig(padim=PadimSection(variant="anomalib"))
        case "lite0":
            return PadimConfig(backbone=BackboneConfig(name="efficientnet-lite0"))
    raise UserError(f"configs/padim.py:{variant}: no such variant; choose port, wide, anomalib or lite0")
