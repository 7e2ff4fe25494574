"""Makes dinov2.json and dinov2.npz: what transformers' PyTorch models compute for weights given by a formula.

    python tests/golden/make_dinov2.py          needs the extra `parity` (torch); a few seconds

The weights and images are not stored: `tensor` gives every number from its name and position by integer
arithmetic, so a test without torch writes the same checkpoint (`write_checkpoint`) and feeds the same images.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
NETWORK = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 20,
    "patch_size": 4,
}
# Case -> (registers, SwiGLU, image heights and widths). The trained grid is 5 x 5.
CASES = {
    "plain": (False, False, [(20, 20), (32, 12), (36, 36)]),
    "registers": (True, False, [(20, 20), (32, 12), (12, 12)]),
    "swiglu": (False, True, [(20, 28)]),
    "registers_swiglu": (True, True, [(28, 20)]),
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) that depend on `name` and the flat index alone.

    Element i is h(crc32(name) + 2654435761 i mod 2^32) / 2^31 - 1, rounded to float32, where h is the last
    step of MurmurHash3: x ^= x >> 16; x *= 0x85EBCA6B; x ^= x >> 13; x *= 0xC2B2AE35; x ^= x >> 16.
    """
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    x = (zlib.crc32(name.encode()) + 2654435761 * index) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    return (x.astype(np.float64) / 2**31 - 1).astype(np.float32).reshape(shape)


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A checkpoint's tensor: every part is far from its usual start, so that no two can be confused."""
    values = tensor(key, shape)
    if "lambda1" in key or key.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
        return 1 + values / 2
    if len(shape) >= 2 and key.endswith(".weight"):
        return values * np.float32(np.sqrt(3 / np.prod(shape[1:])))
    return values / 2


def images(case: str, size: tuple[int, int]) -> np.ndarray:
    """float32 [2,height,width,3] of about unit variance."""
    return np.float32(1.7) * tensor(f"{case} images", (2, *size, 3))


def write_checkpoint(directory: Path, case: str) -> Path:
    """config.json and model.safetensors of a case, under the hub's names; no torch needed."""
    made = json.loads((HERE / "dinov2.json").read_text())[case]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(made["config"]))
    save_file({k: weight(k, tuple(s)) for k, s in made["shapes"].items()}, directory / "model.safetensors")
    return directory


def expected(case: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The reference's intermediates by our names."""
    with np.load(HERE / "dinov2.npz") as file:
        prefix = f"{case}/{size[0]}x{size[1]}/"
        return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


def main() -> None:
    import torch
    import transformers

    models = {
        False: (transformers.Dinov2Config, transformers.Dinov2Model),
        True: (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
    }
    made, outputs = {}, {}
    for case, (registers, swiglu, sizes) in CASES.items():
        make_config, make_model = models[registers]
        with tempfile.TemporaryDirectory() as directory:
            make_model(make_config(**NETWORK, use_swiglu_ffn=swiglu)).save_pretrained(directory)
            path = Path(directory) / "model.safetensors"
            shapes = {key: list(array.shape) for key, array in sorted(load_file(path).items())}
            metadata = {"format": "pt"}  # without it from_pretrained refuses the file
            save_file({k: weight(k, tuple(s)) for k, s in shapes.items()}, path, metadata=metadata)
            made[case] = {
                "config": json.loads((Path(directory) / "config.json").read_text()),
                "shapes": shapes,
            }
            model = make_model.from_pretrained(directory).eval()
        for size in sizes:
            pixels = torch.from_numpy(images(case, size)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                embeddings = model.embeddings(pixels)
                output = model(pixels, output_hidden_states=True)
            blocks = output.hidden_states[1:]
            named = {"embeddings": embeddings, "norm": output.last_hidden_state}
            named |= {f"block{number}": block for number, block in enumerate(blocks, start=1)}
            outputs |= {f"{case}/{size[0]}x{size[1]}/{name}": value.numpy() for name, value in named.items()}
    (HERE / "dinov2.json").write_text(json.dumps(made, indent=1) + "\n")
    np.savez_compressed(HERE / "dinov2.npz", **outputs)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{len(outputs)} arrays of {', '.join(CASES)} by {versions}", file=sys.stderr)


if __name__ == "__main__":
    main()
