r"""UniAD on EfficientNet-B4, 224 x 224, one model for all categories, as its released code has it.

python scripts/train.py --config configs/uniad.py --workdir runs/uniad --config.data.root=DIR
python scripts/score.py --workdir runs/uniad

    configs/uniad.py:ader     ADer's: 256 x 256, timm's padding, 9 x 9 neighbours, 100 epochs, decay of matrices only
    configs/uniad.py:lite0    EfficientNet-Lite0, for which no hub is needed (the rendered rig)

`--config.setting=single` is a model for each category.

Cost: 7.7 M parameters are trained; a step of 10 images is 0.1 TFLOP, so all of Real-IAD (some 7,300 samples, 1,000
epochs) takes 16 hours on an A100 at a third of its 19.5 TFLOP/s in float32: computed, not measured. The feature
cache takes 1.9 MB an image: 285 GB for all of Real-IAD.
Figure to expect: the paper has image AUROC 96.5 on MVTec AD, all categories in one model, with the epoch that was
best on the test set; ours takes the last one. Ours is not measured.
"""

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.uniad.config import UniadConfig, UniadSection, UniadTrainConfig
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "released") -> UniadConfig:
    match variant:
        case "released":
            return UniadConfig(setting="multi")
        case "ader":
            return UniadConfig(
                setting="multi",
                data=DataConfig(image_size=256),
                backbone=BackboneConfig(name="tf-efficientnet-b4"),
                train=UniadTrainConfig(epochs=100, step_at=0.8, clip=5.0, decayed="matrices"),
                uniad=UniadSection(neighbours=(8, 8)),
            )
        case "lite0":
            return UniadConfig(
                setting="multi",
                data=DataConfig(image_size=256),
                backbone=BackboneConfig(name="efficientnet-lite0"),
            )
    raise UserError(f"configs/uniad.py:{variant}: no such variant; choose released, ader or lite0")
