"""Every method on the rendered rig, as docs/results.md compares them: configs/table.py:<method>

Published backbones cannot be had where the project was measured, so that all have EfficientNet-Lite0 with its
ImageNet weights, images of 128 x 128, and as many steps of training as two cores do in minutes: far fewer than the
papers'. Figures compare methods on that budget; they say nothing about the papers' own. A name with an ending is
the method without a part of it; docs/results.md says which were run to the end there.

python scripts/train.py --config configs/table.py:multiflow --workdir runs/multiflow --config.data.root=data/rig-0
python scripts/reproduce.py compare --output runs/table --root data/rig-0 --root data/rig-1 --root data/rig-2 \\
    configs/table.py:patchcore configs/table.py:mvead configs/table.py:mvad configs/table.py:mvad_own_view ...
"""

from pathlib import Path

from mvead_jax.config.io import load_config, override
from mvead_jax.config.schema import Config
from mvead_jax.runtime.errors import UserError

# 200 steps of 2 samples, where a category has 40.
_IDIF = {"train.epochs": "10", "train.batch_size": "2", "train.learning_rate": "1e-3"}

# Name -> the config beside this one, and the fields that it changes.
VARIANTS = {
    "patchcore": ("patchcore.py", {}),
    "patchcore_published": ("patchcore.py:published_lite0", {}),
    "hull": ("hull.py", {}),
    "mvead": ("demo.py", {"features.cache": "", "train.epochs": "10"}),
    "padim": ("padim.py:lite0", {}),
    "procon": ("procon.py:lite0", {}),
    "rd4ad": ("rd4ad.py:lite0", {"train.epochs": "20"}),
    "simplenet": ("simplenet.py:lite0", {"train.epochs": "20"}),
    "uniad": ("uniad.py:lite0", {"setting": "single", "train.epochs": "20"}),
    "dinomaly": ("dinomaly.py:lite0", {"train.epochs": "20"}),
    "destseg": (
        "destseg.py:lite0",
        {"train.epochs": "4", "train.batch_size": "2", "destseg.student_share": "0.5"},
    ),
    "mvad": ("mvad.py:lite0", {"train.epochs": "20"}),
    "mvad_no_attention": ("mvad.py:lite0", {"train.epochs": "20", "mvad.blocks": "0,0,0"}),
    "mvad_own_view": ("mvad.py:lite0", {"train.epochs": "20", "mvad.keys": "own"}),
    "idif": ("idif.py:lite0", _IDIF),
    "idif_resnet18": ("idif.py", {"backbone.weights": "random", **_IDIF}),
    "idif_no_bottleneck": ("idif.py:lite0_no_bottleneck", _IDIF),
    "idif_no_voxel": ("idif.py:lite0_no_voxel", _IDIF),
    "idif_no_dropout": ("idif.py:lite0_no_dropout", _IDIF),
    "multiflow": ("multiflow.py:lite0", {}),
    "multiflow_no_messages": ("multiflow.py:lite0", {"multiflow.graph": "none"}),
    "multiflow_chain": ("multiflow.py:lite0", {"multiflow.graph": "chain"}),
    "multiflow_no_noise": ("multiflow.py:lite0", {"multiflow.noise": "none"}),
}


def get_config(variant: str = "patchcore") -> Config:
    if variant not in VARIANTS:
        raise UserError(f"configs/table.py:{variant}: no such variant; choose {', '.join(VARIANTS)}")
    name, changes = VARIANTS[variant]
    return override(load_config(str(Path(__file__).parent / name)), {"data.image_size": "128", **changes})
