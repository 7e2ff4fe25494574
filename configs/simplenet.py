r"""SimpleNet on Wide ResNet-50-2, 288 x 288, one model for each category, as its released code has it.

python scripts/train.py --config configs/simplenet.py --workdir runs/simplenet --config.data.root=DIR
python scripts/score.py --workdir runs/simplenet

    configs/simplenet.py:ader     ADer's: 256 x 256, 100 epochs of larger batches, decay of matrices only, clipped;
                                  for --config.setting=multi
    configs/simplenet.py:lite0    EfficientNet-Lite0, for which no hub is needed (the rendered rig). Its features have a
                                  standard deviation of 7, beside which the published noise of 0.015 is nothing: the
                                  discriminator's loss stays at 1.0 (configs/table.py:simplenet with
                                  --config.simplenet.noise=0.015). So the noise is 1.0

Cost: 3.9 M parameters are trained; a step of 10 images is 0.4 TFLOP, so a category of Real-IAD (some 240 samples,
160 epochs) takes 20 minutes on an A100 at a third of its 19.5 TFLOP/s in float32: computed, not measured. The
feature cache takes 4.0 MB an image.
Figure to expect: the paper has image AUROC 99.6 on MVTec AD, with the checkpoint that was best on the test set;
ours takes the last one. Ours is not measured.
"""

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.simplenet.config import SimpleNetConfig, SimpleNetSection, SimpleNetTrainConfig
from mvead_jax.runtime.errors import UserError


def get_config(variant: str = "released") -> SimpleNetConfig:
    match variant:
        case "released":
            return SimpleNetConfig()
        case "ader":
            train = SimpleNetTrainConfig(epochs=100, batch_size=6, decayed="matrices", clip=5.0)
            return SimpleNetConfig(data=DataConfig(image_size=256), train=train)
        case "lite0":
            backbone = BackboneConfig(name="efficientnet-lite0")
            own = SimpleNetSection(noise=1.0)
            return SimpleNetConfig(data=DataConfig(image_size=256), backbone=backbone, simplenet=own)
    raise UserError(f"configs/simplenet.py:{variant}: no such variant; choose released, ader or lite0")
