"""The backbones by name.

A family of backbones is a module with two functions, and an installed package adds its own through an entry
point of the group "mvead_jax.backbones":

    load(config: BackboneConfig, taps: Sequence[str], seed: int) -> Loaded       info.py
    empty(recipe: dict, dtype) -> nnx.Module     the same architecture; its numbers do not matter
"""

from mvead_jax.runtime.registry import Registry

BACKBONES: dict[str, str] = {
    "efficientnet-lite0": "mvead_jax.backbones.efficientnet.family",
    "efficientnet-b4": "mvead_jax.backbones.efficientnet.family",
    "efficientnet-b5": "mvead_jax.backbones.efficientnet.family",
    "tf-efficientnet-b4": "mvead_jax.backbones.efficientnet.family",
    "tf-efficientnet-b5": "mvead_jax.backbones.efficientnet.family",
    "resnet18": "mvead_jax.backbones.resnet.family",
    "resnet34": "mvead_jax.backbones.resnet.family",
    "resnet50": "mvead_jax.backbones.resnet.family",
    "wide_resnet50_2": "mvead_jax.backbones.resnet.family",
    "dinov2-small": "mvead_jax.backbones.dinov2.family",
    "dinov2-base": "mvead_jax.backbones.dinov2.family",
    "dinov2-large": "mvead_jax.backbones.dinov2.family",
    "dinov2-giant": "mvead_jax.backbones.dinov2.family",
    "dinov2-small-registers": "mvead_jax.backbones.dinov2.family",
    "dinov2-base-registers": "mvead_jax.backbones.dinov2.family",
    "dinov2-large-registers": "mvead_jax.backbones.dinov2.family",
    "dinov2-giant-registers": "mvead_jax.backbones.dinov2.family",
}

_LETTERS = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_FILES = (
    "pretrain",
    "lc",
)  # ends of names on the original hub: of the weights, and of those with a classifier
# What the original hub, transformers and timm call them.
_OTHER_NAMES = {
    **{f"dinov2_vit{letter}14": f"dinov2-{size}" for letter, size in _LETTERS.items()},
    **{
        f"dinov2_vit{letter}14_{file}": f"dinov2-{size}"
        for letter, size in _LETTERS.items()
        for file in _FILES
    },
    **{
        f"dinov2_vit{letter}14_{kind}{file}": f"dinov2-{size}-registers"
        for letter, size in _LETTERS.items()
        for kind in ("reg", "reg4")
        for file in ("", *(f"_{file}" for file in _FILES))
    },
    **{f"dinov2-with-registers-{size}": f"dinov2-{size}-registers" for size in _LETTERS.values()},
    **{f"dinov2-{letter}": f"dinov2-{size}" for letter, size in _LETTERS.items()},
    **{f"vit_{size}_patch14_dinov2": f"dinov2-{size}" for size in _LETTERS.values()},
    **{f"vit_{size}_patch14_reg4_dinov2": f"dinov2-{size}-registers" for size in _LETTERS.values()},
}

REGISTRY = Registry("backbone.name", BACKBONES, "mvead_jax.backbones", _OTHER_NAMES)
