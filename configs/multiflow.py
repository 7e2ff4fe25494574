r"""Multi-Flow as published: EfficientNet-B5, block 35, at 768 x 768; a flow for each category.

    configs/multiflow.py          the paper's network: 6 couplings, 64,135,548 parameters
    configs/multiflow.py:lite0    what a laptop trains: EfficientNet-Lite0, its map of stride 8, at 256 x 256, two
                                  couplings, a higher learning rate

python scripts/train.py --config configs/multiflow.py --workdir runs/multiflow --config.data.root=data/realiad
python scripts/score.py --workdir runs/multiflow

The paper leaves the background out by masks of a segmentation network: --config.data.foreground=files with
--config.data.foreground_folder=<folder of its masks> and --config.data.foreground_resize=released;
--config.data.mirrored=real-iad flips the images that some of Real-IAD's cameras store mirrored. Both are off here,
for neither lies in the data set. --config.eval.protocol=multiflow-released counts as the released code does.

Cost, computed for one A100 at float32's highest precision (19.5 TFLOP/s, a third of it reached): a training step
of 8 samples is 3.0e11 multiply-adds forward and twice that backward, 0.3 s; 40 epochs of a category of Real-IAD
(243 samples, 30 steps an epoch) 6 minutes, 30 categories 3 hours. Features of its 151,050 images: 2.8e10
multiply-adds each, 22 minutes in all, and 106 GB of disk (--config.features.dtype=bfloat16 halves that).

Expected (the paper's, Real-IAD, single-class, with masks): sample AUROC 95.9.
"""

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.methods.multiflow.config import MultiFlowConfig, MultiFlowSection, MultiFlowTrainConfig
from mvead_jax.runtime.errors import UserError

VARIANTS = ("paper", "lite0")


def get_config(variant: str = "paper") -> MultiFlowConfig:
    if variant == "paper":
        return MultiFlowConfig()
    if variant == "lite0":
        return MultiFlowConfig(
            data=DataConfig(image_size=256),
            backbone=BackboneConfig(name="efficientnet-lite0"),
            multiflow=MultiFlowSection(tap="stride8", normalise="channels", kernels=(3, 3), hidden=32),
            train=MultiFlowTrainConfig(epochs=40, batch_size=4, learning_rate=3e-3),
        )
    raise UserError(f"configs/multiflow.py:{variant}: give one of {', '.join(VARIANTS)}")
