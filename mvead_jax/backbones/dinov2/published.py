"""Numbers that others publish of trained DINOv2 weights, and what a checkpoint gives in their place.

The integration tests of transformers run a model on one photograph of COCO and state nine numbers of its last
hidden state: tests/models/dinov2/test_modeling_dinov2.py and
tests/models/dinov2_with_registers/test_modeling_dinov2_with_registers.py, test_inference_no_head of each. There
are such numbers for the base size only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32
from PIL import Image

from mvead_jax.backbones.dinov2.config import DINOV2_SIZES
from mvead_jax.backbones.dinov2.modeling import DinoV2, random_dinov2
from mvead_jax.backbones.dinov2.params import load_dinov2, locate_weights
from mvead_jax.config.validation import nearest
from mvead_jax.data.images import open_image
from mvead_jax.data.loading import preprocess
from mvead_jax.runtime.errors import UserError

IMAGE, IMAGE_SIZE = "000000039769.png", (640, 480)  # COCO val2017; width, height
_SHORTER, _CROP = 256, 224  # of the image processor that the checkpoints ship with
_TESTS = "tests/models/{0}/test_modeling_{0}.py of transformers"


@dataclass(frozen=True)
class Published:
    """The first three numbers of the first three tokens (CLS; registers, if any; patches) after the last norm.

    Attributes:
      source: where they stand.
      relative, absolute: tolerances of that test: absolute + relative * |published|.
    """

    source: str
    tokens: tuple[tuple[float, float, float], ...]
    relative: float
    absolute: float = 1e-4


PUBLISHED = {
    "dinov2-base": Published(
        _TESTS.format("dinov2"),
        ((-2.1747, -0.4729, 1.0936), (-3.2780, -0.8269, -0.9210), (-2.9129, 1.1284, -0.7306)),
        relative=1e-5,  # PyTorch's default, which allclose adds
    ),
    "dinov2-base-registers": Published(
        _TESTS.format("dinov2_with_registers"),
        ((-0.4638, -1.4563, -0.0289), (-1.4736, -0.8866, 0.3005), (0.0720, -0.2406, -1.5943)),
        relative=1e-4,
    ),
}


@dataclass(frozen=True)
class Compared:
    """What a checkpoint gives beside what is published.

    Attributes:
      weights: what was loaded, in words.
      ours: [3,3]. published: the numbers that it is compared with.
    """

    weights: str
    ours: Float32[np.ndarray, "3 3"]
    published: Published

    @property
    def differences(self) -> Float32[np.ndarray, "3 3"]:
        """Return how far each number is from the published one."""
        return np.abs(self.ours - np.asarray(self.published.tokens, np.float32))

    @property
    def agree(self) -> bool:
        """Return whether every number is within the tolerance of the published test; NaN is not."""
        size = np.abs(np.asarray(self.published.tokens, np.float32))
        return bool((self.differences <= self.published.absolute + self.published.relative * size).all())


def compare(name: str, image: Path, weights: str, directory: Path, seed: int = 0) -> Compared:
    """Return what a DINOv2 gives of the published image beside the published numbers.

    Args:
      name: of the backbone. weights, directory: as backbone.weights and backbone.directory of a config.
      seed: of `random` weights, which show that the comparison can fail.

    Raises:
      UserError: no published numbers of this backbone, no weights, or another image, by its size.
    """
    if name not in DINOV2_SIZES:
        raise UserError(f"unknown backbone {name!r}{nearest(name, PUBLISHED)}; {_known()}")
    if name not in PUBLISHED:
        raise UserError(f"{name}: nobody publishes numbers of it that could be compared; {_known()}")
    picture = open_image(image)
    if picture.size != IMAGE_SIZE:
        raise UserError(
            f"{image}: {picture.width} x {picture.height} pixels, but {IMAGE} of COCO, whose numbers are published, "
            f"has {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]}; give that image as transformers' repository has it"
        )
    if weights == "random":
        network, words = random_dinov2(DINOV2_SIZES[name], seed), f"random, seed {seed}"
    else:
        found = locate_weights(name, weights, directory)
        network, words = load_dinov2(found), str(found)
    return Compared(words, first_tokens(network, picture), PUBLISHED[name])


def first_tokens(network: DinoV2, picture: Image.Image) -> Float32[np.ndarray, "3 3"]:
    """Return the numbers of an image at the places that are published."""
    pixels = preprocess(cropped(picture), _CROP)
    graph, state = nnx.split(network)
    last = jax.jit(lambda state, images: nnx.merge(graph, state).tokens(images)["norm"])(state, pixels[None])
    return np.asarray(last[0, :3, :3], np.float32)


def cropped(picture: Image.Image) -> Image.Image:
    """Return the middle of an image as the checkpoints' image processor cuts it out (BitImageProcessor).

    The shorter side becomes 256 pixels (bicubic), the longer one in proportion, rounded down; of that the middle 224 x
    224 stay. The program itself resizes without a crop; only these numbers are made with one.
    """
    shorter = min(picture.size)
    width, height = (_SHORTER * side // shorter for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - _CROP) // 2, (height - _CROP) // 2
    return resized.crop((left, top, left + _CROP, top + _CROP))


def _known() -> str:
    return f"there are numbers of {', '.join(PUBLISHED)}"
