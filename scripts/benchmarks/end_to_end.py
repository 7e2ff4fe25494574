"""Images per second from decoded images to the scores of new ones, beside the same put together from the
peers. Needs the extra `bench` (torch, faiss-cpu); about four minutes on two cores.

PatchCore on DINOv2 features: features of the normal images, a 10 % greedy coreset of 128 projected
dimensions, features of new images, the nearest row of each of their patches. The peers: transformers'
PyTorch model, anomalib's loop for the coreset (written in torch as its source does it), FAISS's IndexFlatL2.
Both take the same random weights and the same projection, so both keep the same rows and give the same
scores.
"""

from __future__ import annotations

import argparse

from benchmarks.coreset import by_differences
from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch", "transformers", "faiss")
QUICK = ("--normal=10", "--new=10", "--rounds=1")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="dinov2-small")
    parser.add_argument("--block", type=int, default=7)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--normal", type=int, default=100, help="normal images")
    parser.add_argument("--new", type=int, default=100, help="images to score")
    parser.add_argument("--batch", type=int, default=10, help="images per call")
    parser.set_defaults(rounds=3)


def measure(args: argparse.Namespace) -> list[dict]:
    limit_threads(args.threads)
    import faiss
    import jax
    import numpy as np
    import torch

    from mvead_jax.bank.coreset import greedy_coreset
    from mvead_jax.bank.nearest import nearest
    from mvead_jax.bank.search.projection import origin_of, project, random_matrix

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    ours, theirs = backbones(args.backbone, args.block)
    random = np.random.default_rng(0)
    # Low frequencies and a little noise, so that patches differ as those of images do.
    waves = random.standard_normal((args.normal + args.new, 8, 8, 3), dtype=np.float32)
    images = np.array(jax.image.resize(waves, (len(waves), args.size, args.size, 3), "cubic"))
    images += 0.1 * random.standard_normal(images.shape, dtype=np.float32)
    batches = [images[start : start + args.batch] for start in range(0, len(images), args.batch)]
    split = args.normal * ((args.size // 14) ** 2)

    def run_ours() -> np.ndarray:
        features = np.concatenate([np.asarray(ours(batch))[:, 1:] for batch in batches])
        features = features.reshape(-1, features.shape[-1])
        normal = features[:split]
        kept = greedy_coreset(normal, split // 10, seed=0)
        return np.asarray(nearest(features[split:], normal[kept])[0]).reshape(args.new, -1).max(1)

    @torch.inference_mode()
    def run_theirs() -> np.ndarray:
        stacked = [torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous() for batch in batches]
        features = torch.cat([theirs(batch)[:, 1:] for batch in stacked]).flatten(0, 1)
        normal = features[:split].numpy()
        first = int(greedy_coreset(normal, 1, seed=0)[0])
        matrix = random_matrix(normal.shape[1], 128, 0)
        points = torch.from_numpy(np.array(project(normal, origin_of(normal), matrix)))
        index = faiss.IndexFlatL2(normal.shape[1])
        index.add(normal[by_differences(points, first, split // 10)])
        squared = index.search(features[split:].numpy(), 1)[0]
        return np.sqrt(np.maximum(squared[:, 0], 0)).reshape(args.new, -1).max(1)

    difference = float(np.abs(run_ours() / run_theirs() - 1).max())
    if not difference < 0.01:
        raise RuntimeError(f"the contestants' scores differ by {difference:.1%}: their times mean nothing")
    contestants = {"mvead_jax": run_ours, "transformers, anomalib's loop, FAISS": run_theirs}
    facts = {
        "backbone": f"{args.backbone} to block {args.block}, random weights, {args.size} px",
        "pictures": f"{args.normal} normal, {args.new} new",
        "bank": f"{split // 10} of {split} patches",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "largest difference of a score": f"{difference:.1e}",
    }
    return [report("end to end", "images", len(images), alternate(contestants, args.rounds), facts)]
