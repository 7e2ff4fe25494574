"""Feature maps of ResNets and EfficientNets: bb_*, uniad_backbone_*, flow_effnet_*, and parameter counts.

The noise of the stored float32 maps is 2e-7 to 6e-7 of their largest value (precision.json, against float64);
XLA's sums run in another order, so a few times that is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from oracles import recipes
from oracles.check import Difference, compare, sampled

from mvead_jax.backbones.checkpoint import Arrays, Source
from mvead_jax.backbones.efficientnet import family as efficientnet
from mvead_jax.backbones.efficientnet.layers import BATCH_NORM_EPSILON, same_padding
from mvead_jax.backbones.efficientnet.naming import EFFICIENTNET_PYTORCH, TIMM, key_table
from mvead_jax.backbones.efficientnet.params import from_tensors
from mvead_jax.backbones.efficientnet.variants import STEM_KERNEL, VARIANTS, block_of, block_shapes
from mvead_jax.backbones.info import Tap
from mvead_jax.backbones.resnet import family as resnet
from mvead_jax.backbones.resnet import params as resnet_params
from mvead_jax.backbones.resnet.modeling import ARCHITECTURES

CASES = (
    "bb_*.npz",
    "uniad_backbone_*.npz",
    "flow_effnet_*.npz",
    "params_effnet.json",
    "params_backbones.json",
)
_NOISE = 3e-6  # allowed, of an array's largest value: 5 to 15 times the float32 noise of the stored numbers
_ALIGNED = ("stride2", "stride4", "stride8", "stride16")  # what UniAD joins, at the size of the last


def check(path: Path) -> Iterator[Difference]:
    """All comparisons of one case."""
    if path.suffix == ".json":
        facts = json.loads(path.read_text())
        yield from _effnet_counts(facts) if "counts" in facts else _backbone_counts(facts)
        return
    with np.load(path) as case:
        if path.stem.startswith("bb_"):
            yield from _backbone(path, case)
        elif path.stem.startswith("uniad_backbone"):
            yield from _uniad(path, case)
        else:
            yield from _flow_extractor(path, case)


def _backbone(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    """bb_NET_sSIZE: the maps of one network; EfficientNet with timm's padding."""
    name = re.fullmatch(r"bb_(.+)_s\d+", path.stem)[1]
    tag = _tag(case, "bb-A")
    count, size = (int(number) for number in case["config"])
    weights = recipes.weights(path.with_name(f"recipe_bb_{name}.json"), tag)
    images = _images(case, f"bb-{tag}-{size}", count, size)
    yield _same_input(case, images)
    strides = {int(key.split("stride")[1].split(".")[0]) for key in case if key.startswith("feature_stride")}
    if name in ARCHITECTURES:
        layers = {stride: f"layer{stride.bit_length() - 2}" for stride in strides}
        held = max(int(key[5]) for key in weights if key.startswith("layer"))
        network = resnet_params.from_tensors(name, Arrays(path.name, weights), held, held=held)
    else:
        layers = {stride: f"stride{stride}" for stride in strides}
        network = _efficientnet(name.replace("_", "-"), weights, list(layers.values()))
    maps = _run(network, images, tuple(layers.values()))
    for stride, tap in sorted(layers.items()):
        yield _map(case, f"feature_stride{stride}", maps[tap])


def _uniad(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    """uniad_backbone_sSIZE: EfficientNet-B4 padded for 380 pixels, maps joined; also with timm's padding."""
    count, size = (int(number) for number in case["config"])
    weights = recipes.weights(path.with_name("recipe_bb_tf_efficientnet_b4.json"), _tag(case, "bb-A"))
    images = _images(case, path.stem.removeprefix("uniad_"), count, size)
    maps = _run(_efficientnet("efficientnet-b4", weights, _ALIGNED), images, _ALIGNED)
    for number, tap in enumerate(_ALIGNED):
        yield _map(case, f"feature{number}", maps[tap])
    yield _map(case, "feature_align", _aligned(maps))
    if (name := "feature_align_timm_padding") + ".pos" in case:
        maps = _run(_efficientnet("tf-efficientnet-b4", weights, _ALIGNED), images, _ALIGNED)
        yield _map(case, name, _aligned(maps))


def uniad_features(
    path: Path, case: Mapping[str, np.ndarray], tag: str, count: int, size: int
) -> list[np.ndarray]:
    """The four maps [B,D,h,w] that UniAD joins, of the images of a tag."""
    name = str(case["backbone_tag"]) if "backbone_tag" in case else "bb-A"
    weights = recipes.weights(path.with_name("recipe_bb_tf_efficientnet_b4.json"), name)
    images = recipes.normalised(recipes.smooth_images(tag, count, size))
    maps = _run(_efficientnet("efficientnet-b4", weights, _ALIGNED), images, _ALIGNED)
    return [maps[tap] for tap in _ALIGNED]


def _flow_extractor(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    """flow_effnet_sSIZE: EfficientNet-B5 padded for 456 pixels; with SAME padding, another."""
    weights = recipes.weights(path.with_name("recipe_effnet.json"), _tag(case, "eff-A"))
    weights = {key.removeprefix("feature_extractor."): value for key, value in weights.items()}
    size = int(case["size"])
    images = _images(case, path.stem.replace("flow_effnet_", "eff-"), 1, size, fine=65)
    yield _same_input(case, images)
    blocks = sorted({int(found[1]) for key in case if (found := re.match(r"block(\d+)\.", key))})
    taps = (*(f"block{number}" for number in blocks), "stride32")
    maps = _run(_efficientnet("efficientnet-b5", weights, taps), images, taps)
    for tap in taps[:-1]:
        yield _map(case, tap, maps[tap])
    for name in ("feature", "feature_s"):
        if name in case or f"{name}.pos" in case:
            yield _map(case, name, maps["stride32"])
    name = "feature_if_padding_were_dynamic"
    if f"{name}.pos" in case and size <= 256:
        maps = _run(_efficientnet("tf-efficientnet-b5", weights, ("stride32",)), images, ("stride32",))
        yield _map(case, name, maps["stride32"])
    elif f"{name}.pos" in case:  # the other network would take as long again: that it differs must do
        apart = _map(case, name, maps["stride32"])
        yield Difference(f"{name} is another", 0.0 if apart.found > 0.01 else np.inf, 0.0)


def _backbone_counts(facts: Mapping[str, dict]) -> Iterator[Difference]:
    """Channels, strides, parameters and batch norm of each network."""
    for name, own in facts.items():
        if name in ARCHITECTURES:
            taps, modules = resnet.taps_of(name), {}
            layers = max(int(feature["module"][-1]) for feature in own["features"])
            used = _count(resnet_params.key_table(name, layers))
            width = ARCHITECTURES[name].widths[-1]
            whole = _count(resnet_params.key_table(name)) + 1000 * (width + 1)  # fc is left out by the table
            epsilon = resnet_params.random_resnet(name, 0, 1).bn1.epsilon
        else:
            variant = VARIANTS[name.rpartition("_")[2]]
            taps, ends = efficientnet.taps_of(variant), np.cumsum([stage.blocks for stage in variant.stages])
            modules = {f"blocks.{stage}": f"block{end - 1}" for stage, end in enumerate(ends)}
            used, whole = (_count(key_table(variant, TIMM, blocks)) for blocks in (int(ends[-1]), None))
            epsilon = BATCH_NORM_EPSILON
        for feature in own["features"]:
            expected, module = Tap(feature["stride"], feature["channels"]), feature["module"]
            names = {modules[module], f"stride{expected.stride}"} if modules else {module}
            for tap in sorted(names):
                yield compare(f"{name} {tap}", taps[tap], expected, 0)
        yield compare(f"{name} parameters used", used, own["parameters_used_part"], 0)
        yield compare(f"{name} parameters", whole, own["parameters_whole_classifier_net"], 0)
        yield compare(f"{name} epsilon", epsilon, own["bn_eps"], 0)


def _effnet_counts(facts: Mapping[str, dict]) -> Iterator[Difference]:
    """Parameters of EfficientNet-B5, and kernel, stride, channels and padding of its spatial convolutions."""
    variant = VARIANTS["b5"]
    for name, blocks in (("total_whole_net", None), ("used_stem_to_block35", 36)):
        found = _count(key_table(variant, EFFICIENTNET_PYTORCH, blocks))
        yield compare(name, found, facts["counts"][name], 0)
    shapes = block_shapes(variant, static=True)
    for own in facts["spatial_convolutions"]:
        if own["name"] == "_conv_stem":
            found = (STEM_KERNEL, 2, 1, same_padding(variant.nominal, STEM_KERNEL, 2))
        else:
            shape = shapes[int(own["name"].split(".")[1])]
            found = (shape.kernel, shape.stride, shape.inputs * shape.expansion, shape.padding)
        expected = [own["kernel"], own["stride"], own["groups"], *own["pad_left_right_top_bottom"]]
        yield compare(own["name"], [*found[:3], *found[3], *found[3]], expected, 0)


# ---- parts


def _tag(case: Mapping[str, np.ndarray], usual: str) -> str:
    """The tag of the weights, where a case tells it."""
    return str(case["tag"]) if "tag" in case else usual


def _images(case: Mapping[str, np.ndarray], tag: str, count: int, size: int, fine: int = 33) -> np.ndarray:
    """float32 [B,H,W,3], normalised; the images are in the case or drawn by their tag."""
    levels = (
        case["image_uint8"] if "image_uint8" in case else recipes.smooth_images(tag, count, size, 9, fine)
    )
    return recipes.normalised(levels)


def _same_input(case: Mapping[str, np.ndarray], images: np.ndarray) -> Difference:
    """An image of another tag would make every other comparison meaningless."""
    return sampled(case, "input", images.transpose(0, 3, 1, 2), 1e-6)


def _efficientnet(name: str, weights: dict[str, np.ndarray], taps: Sequence[str]) -> nnx.Module:
    """A network as far as its taps need, of a checkpoint that may end before the last block."""
    variant = VARIANTS[name.rpartition("-")[2]]
    blocks = 1 + max(block_of(variant, tap) for tap in taps)
    held = {match[0] for key in weights if (match := re.match(r"blocks\.\d+\.\d+|_blocks\.\d+", key))}
    return from_tensors(name, Arrays(name, weights), blocks, held=len(held))


def _run(network: nnx.Module, images: np.ndarray, taps: Sequence[str]) -> dict[str, np.ndarray]:
    """Maps as PyTorch has them: [B,D,h,w]."""
    graph, state = nnx.split(network)
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, taps))(state, images)
    return {tap: np.asarray(found).transpose(0, 3, 1, 2) for tap, found in maps.items()}


def _map(case: Mapping[str, np.ndarray], name: str, found: np.ndarray) -> Difference:
    largest = np.abs(case[f"{name}.stat"][2:]).max() if f"{name}.stat" in case else np.abs(case[name]).max()
    return sampled(case, name, found, _NOISE * max(float(largest), 1.0))


def _aligned(maps: dict[str, np.ndarray]) -> np.ndarray:
    """UniAD's features: all maps at the size of the last, corners on corners (baselines.md 3.2)."""
    side = maps[_ALIGNED[-1]].shape[2]
    return np.concatenate([_corners(_corners(maps[tap], side, 2), side, 3) for tap in _ALIGNED], axis=1)


def _corners(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis; the first and the last value stay."""
    place = np.arange(size) * ((x.shape[axis] - 1) / (size - 1))
    low = np.minimum(place.astype(np.int64), x.shape[axis] - 2)
    share = (place - low).reshape([-1 if at == axis else 1 for at in range(x.ndim)])
    return x.take(low, axis) * (1 - share) + x.take(low + 1, axis) * share


def _count(table: Mapping[str, Source]) -> int:
    return resnet_params.parameters(table)
