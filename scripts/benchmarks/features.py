"""Images per second of the DINOv2 port up to a block, beside transformers' PyTorch model. Needs the extra
`bench` (torch); about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.errors import UserError

NEEDS = ("torch", "transformers")
QUICK = ("--backbone=dinov2-small", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="dinov2-base")
    parser.add_argument("--block", type=int, default=7)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=10, help="images per call")


def measure(args: argparse.Namespace) -> list[dict]:
    """Our DINOv2 against transformers' on the same random weights, images, block and threads."""
    limit_threads(args.threads)
    import jax
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    forward, theirs = backbones(args.backbone, args.block)
    images = np.random.default_rng(0).standard_normal((args.batch, args.size, args.size, 3), dtype=np.float32)
    jax_images, torch_images = (
        jax.device_put(images),
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
    )

    def run_ours() -> jax.Array:
        return forward(jax_images).block_until_ready()

    @torch.inference_mode()
    def run_theirs() -> torch.Tensor:
        return theirs(torch_images)

    difference = float(np.abs(np.asarray(run_ours()) - run_theirs().numpy()).max())
    if not difference < 1e-3:
        raise RuntimeError(f"the contestants disagree by {difference}: their times mean nothing")
    seconds = alternate({"mvead_jax": run_ours, "transformers (PyTorch, sdpa)": run_theirs}, args.rounds)
    facts = {
        "backbone": args.backbone,
        "block": args.block,
        "size": f"{args.size} px",
        "batch": args.batch,
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "weights": "random",
        "largest difference": f"{difference:.1e}",
    }
    return [report("features", "images", args.batch, seconds, facts)]


def backbones(
    name: str, block: int, precision: str = "float32", image_size: int | None = None
) -> tuple[Callable, Callable]:
    """Return our DINOv2 and transformers', of the same random weights, up to a block: images to [B,1+N,D].

    Ours is a jitted function of [B,H,W,3] that computes in `precision`; theirs a module of [B,3,H,W] in float32, which
    leaves out the final layer norm, as ours does.

    Args:
      image_size: that the weights are made for; the published one by default, and position embeddings are resized.
    """
    import jax
    import torch
    from flax import nnx
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    from mvead_jax.backbones.dinov2.config import DINOV2_SIZES
    from mvead_jax.backbones.dinov2.params import load_dinov2

    if name not in DINOV2_SIZES or name.endswith("registers"):
        raise UserError(f"--backbone={name}: choose dinov2-small, -base, -large or -giant")
    logging.disable_progress_bar()
    torch.manual_seed(0)
    size = DINOV2_SIZES[name]
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "use_swiglu_ffn")
    fields = {field: getattr(size, field) for field in shared}
    if image_size is not None:
        fields["image_size"] = image_size
    config = Dinov2Config(**fields, attn_implementation="sdpa")
    theirs = Dinov2Model(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = load_dinov2(directory, num_blocks=block, dtype=precision)
    theirs.encoder.layer = theirs.encoder.layer[:block]
    graph, state = nnx.split(ours)
    forward = jax.jit(lambda state, images: nnx.merge(graph, state).tokens(images)[f"block{block}"])

    class UpToBlock(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = theirs

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.whole.encoder(self.whole.embeddings(images)).last_hidden_state

    return lambda images: forward(state, images), UpToBlock().eval()
