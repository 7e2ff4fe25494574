"""What `mvead study-device` trains and scores over and over, on the fourteen rendered samples that it brings along.

MVEAD on EfficientNet-Lite0 at 256 x 256, so that its attention runs in bands, with known cameras; two epochs at ten
times the usual learning rate, so that another seed tells. By itself:

python scripts/train.py --config configs/study_device.py --workdir runs/device --config.data.root=mvead_jax/study/rig
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, DecisionConfig, EvalConfig


def get_config(method: str = "mvead") -> Config:
    config = config_of(
        method,
        data=DataConfig(image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        decision=DecisionConfig(held_out=0.33, false_alarms=0.25),
        eval=EvalConfig(bootstrap=0),
    )
    config = override(config, {"geometry.cameras": "cameras.json"})
    training = {"train.epochs": "2", "train.batch_size": "4", "train.learning_rate": "1e-3"}
    return override(config, training) if hasattr(config, "train") else config
