"""Images per second of the DINOv2 port up to a block, beside transformers' PyTorch model. Needs the extra
`bench` (torch); about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile

from contests.turns import limit_threads, report, take_turns
from mvead_jax.errors import UserError

NEEDS = ("torch", "transformers")
QUICK = ("--backbone=dinov2-small", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="dinov2-base")
    parser.add_argument("--block", type=int, default=7)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=10, help="images per call")


def contest(args: argparse.Namespace) -> list[dict]:
    """Our DINOv2 against transformers' on the same random weights, images, block and threads."""
    limit_threads(args.threads)
    import jax
    import numpy as np
    import torch
    from flax import nnx
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    from mvead_jax.backbone.dinov2 import DINOV2_SIZES
    from mvead_jax.backbone.weights import load_dinov2

    if args.backbone not in DINOV2_SIZES or args.backbone.endswith("registers"):
        raise UserError(f"--backbone={args.backbone}: choose dinov2-small, -base, -large or -giant")
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = DINOV2_SIZES[args.backbone]
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "use_swiglu_ffn")
    config = Dinov2Config(**{field: getattr(size, field) for field in shared}, attn_implementation="sdpa")
    theirs = Dinov2Model(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = load_dinov2(directory, num_blocks=args.block)
    theirs.encoder.layer = theirs.encoder.layer[: args.block]

    images = np.random.default_rng(0).standard_normal((args.batch, args.size, args.size, 3), dtype=np.float32)
    graph, state = nnx.split(ours)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x)[f"block{args.block}"])
    jax_images, torch_images = (
        jax.device_put(images),
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
    )

    def run_ours() -> jax.Array:
        return forward(state, jax_images).block_until_ready()

    @torch.inference_mode()
    def run_theirs() -> torch.Tensor:
        # Without the final layer norm, which we do not compute either.
        return theirs.encoder(theirs.embeddings(torch_images)).last_hidden_state

    difference = float(np.abs(np.asarray(run_ours()) - run_theirs().numpy()).max())
    if not difference < 1e-3:
        raise RuntimeError(f"the contestants disagree by {difference}: their times mean nothing")
    seconds = take_turns({"mvead_jax": run_ours, "transformers (PyTorch, sdpa)": run_theirs}, args.rounds)
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
