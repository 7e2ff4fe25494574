"""Samples per second of Multi-Flow's training step and of its scoring, beside the same network in PyTorch. Needs the
extra `bench` (torch); about five minutes on two cores.

The peer is written from the formulas of methods/multiflow with torch's own convolutions: one F.conv2d for every
view and every edge, weights of our flow, AdamW with the same settings. Both must give the same loss before and
after a step. Sizes are those of configs/multiflow.py:lite0 unless something else is asked for; --paper takes
the published ones (304 x 24 x 24, six couplings; --batch=8 is the released one).

`--memory` times nothing: it compiles our training step and says what memory it takes beside its arguments, as the
compiler lays it out, with and without rematerialisation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch",)
QUICK = ("--kernels=3", "--grid=8", "--batch=2", "--rounds=3")
_VIEWS = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=112, help="channels of a view's features")
    parser.add_argument("--grid", type=int, default=16, help="side of the feature maps, patches")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--kernels", default="3,3,3,3", help="of the couplings, comma-separated")
    parser.add_argument("--batch", type=int, default=4, help="samples in a step")
    parser.add_argument("--paper", action="store_true", help="the published sizes")
    parser.add_argument("--memory", action="store_true", help="only the memory of our training step")
    parser.set_defaults(rounds=5)


def measure(args: argparse.Namespace) -> list[dict]:
    limit_threads(args.threads)
    import jax
    import torch

    torch.set_num_threads(args.threads)
    if args.paper:
        args.width, args.grid, args.hidden, args.kernels = 304, 24, 64, "3,3,3,3,3,5"
    if args.memory:
        return [_memory(args)]
    ours, theirs = _ours(args), _theirs(args)
    facts = {
        "features": f"{args.batch} samples of {_VIEWS} views, {args.grid} x {args.grid}, {args.width} wide",
        "flow": f"couplings {args.kernels}, hidden width {args.hidden}, graph top-ring",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
    }
    results = []
    for what in ("train", "score"):
        pair = {"mvead_jax": ours[what], "torch": theirs[what]}
        calls = [[run(), run()] for run in pair.values()]  # the second comes after a step of training
        difference = max(abs(a - b) / abs(b) for a, b in zip(*calls, strict=True))
        if not difference < 1e-3:
            raise RuntimeError(
                f"{what}: ours gives {calls[0]} and the peer {calls[1]}: their times mean nothing"
            )
        seconds = alternate(pair, args.rounds)
        own = facts | {"relative difference of the loss": f"{difference:.1e}"}
        results.append(report(f"multiflow {what}", "samples", args.batch, seconds, own))
    return results


def _memory(args: argparse.Namespace) -> dict:
    """What a training step of ours takes beside its arguments, by the compiler's own count."""
    found = {}
    for rematerialise in (False, True):
        step, arguments = _step(args, rematerialise)
        taken = step.lower(*arguments).compile().memory_analysis()
        found["rematerialised" if rematerialise else "stored"] = taken.temp_size_in_bytes
        found["arguments"] = taken.argument_size_in_bytes
    gib = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in found.items())
    print(
        f"multiflow memory of a step, {args.batch} samples, {args.grid} x {args.grid} x {args.width}: {gib}"
    )
    return {"benchmark": "multiflow memory", "bytes": found, "samples": args.batch, "kernels": args.kernels}


def _flow(args: argparse.Namespace, rematerialise: bool = False) -> Any:
    """A flow whose gains are not zero, so that all of its parts matter."""
    from flax import nnx

    from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
    from mvead_jax.methods.multiflow.graph import top_ring

    kernels = tuple(map(int, args.kernels.split(",")))
    config = FlowConfig(
        args.width, top_ring(_VIEWS), args.hidden, kernels, gain=0.3, rematerialise=rematerialise
    )
    return MultiFlow(config, nnx.Rngs(0))


def _drawn(args: argparse.Namespace) -> tuple[Any, Any]:
    """Features [B,V,H,W,C] and the noise [B,H,W,1] of a step."""
    import numpy as np

    random = np.random.default_rng(0)
    shape = (args.batch, _VIEWS, args.grid, args.grid, args.width)
    noise = 0.15 * random.standard_normal((args.batch, args.grid, args.grid, 1))
    return random.standard_normal(shape, dtype=np.float32), noise.astype(np.float32)


def _step(args: argparse.Namespace, rematerialise: bool = False) -> tuple[Any, tuple[Any, Any]]:
    """Our training step with its state and its batch."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mvead_jax.methods.multiflow.config import MultiFlowTrainConfig
    from mvead_jax.methods.multiflow.objective import flow_loss
    from mvead_jax.training.loop import make_step
    from mvead_jax.training.optimisers import adamw

    graph, parameters = nnx.split(_flow(args, rematerialise))
    parameters = nnx.to_pure_dict(parameters)

    def loss(parameters: Any, extras: Any, batch: Any, key: Any) -> Any:
        value = flow_loss(_maps(nnx.merge(graph, parameters), *batch))
        return value, ({"loss": value}, extras)

    optimiser = adamw(MultiFlowTrainConfig(), 1, 0.95)
    state = {
        "parameters": jax.tree.map(jnp.copy, parameters),
        "optimizer": optimiser.init(parameters),
        "extras": {},
        "step": jnp.int32(0),
    }
    step = make_step(loss, optimiser, jax.random.key(0))
    return step, (state, tuple(map(jnp.asarray, _drawn(args))))


def _maps(flow: Any, x: Any, noise: Any) -> Any:
    import jax

    from mvead_jax.methods.multiflow.noise import with_noise
    from mvead_jax.methods.multiflow.objective import anomaly_map

    def of_sample(x: Any, noise: Any) -> Any:
        noisy, condition = with_noise(x, noise)
        return anomaly_map(*flow.forward(noisy, None, condition))

    return jax.vmap(of_sample)(x, noise)


def _ours(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    import jax
    from flax import nnx

    step, (state, (x, noise)) = _step(args)
    graph, parameters = nnx.split(_flow(args))
    score = jax.jit(lambda own, x, noise: _maps(nnx.merge(graph, own), x, noise))

    def train() -> float:
        nonlocal state
        state, figures = step(state, (x, noise))
        return float(figures["loss"])

    return {"train": train, "score": lambda: float(score(parameters, x, 0 * noise).mean())}


def _theirs(args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    import torch

    network = _TorchFlow(_flow(args))
    optimiser = torch.optim.AdamW(network.tensors, lr=2e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=1e-5)
    frozen = _TorchFlow(_flow(args))
    features, noise = _drawn(args)
    x = torch.from_numpy(features).permute(1, 0, 4, 2, 3).contiguous()  # [V,B,C,H,W]
    noise = torch.from_numpy(noise).permute(0, 3, 1, 2).contiguous()

    def train() -> float:
        optimiser.zero_grad()
        loss = network(list(x), noise).mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    def score() -> float:
        with torch.inference_mode():
            return frozen(list(x), 0 * noise).mean().item()

    return {"train": train, "score": score}


class _TorchFlow:
    """Our flow in PyTorch: views [B,C,H,W] and noise [B,1,H,W] -> maps [V,B,H,W]."""

    def __init__(self, flow: Any):
        import numpy as np
        import torch

        from mvead_jax.methods.multiflow.coupling import permutations

        self.graph, self.clamp, self.half = flow.config.graph, flow.config.clamp, flow.config.width // 2
        self.tensors: list[Any] = []

        def own(array: Any) -> Any:
            tensor = torch.tensor(np.ascontiguousarray(array)).requires_grad_()
            self.tensors.append(tensor)
            return tensor

        def convolutions(module: Any) -> list[tuple[Any, Any]]:
            kernels = np.asarray(module.kernel[...]).transpose(0, 4, 3, 1, 2)  # [n,out,in,k,k]
            biases = np.asarray(module.bias[...])
            return [(own(kernel), own(bias)) for kernel, bias in zip(kernels, biases, strict=True)]

        self.couplings = []
        for number, coupling in enumerate(flow.couplings):
            networks = {
                name: (
                    *(convolutions(getattr(network, part)) for part in ("inner", "own", "message")),
                    [own(gain) for gain in np.asarray(network.gain[...])],
                    network.border,
                )
                for name, network in (("s1", coupling.s1), ("s2", coupling.s2))
            }
            orders = permutations(number, flow.config.graph.views, flow.config.width)
            self.couplings.append(([torch.tensor(order) for order in orders], networks))

    def __call__(self, views: list[Any], noise: Any) -> Any:
        import torch

        condition = 20 * noise
        views, log_det = [view + noise for view in views], [0.0] * len(views)
        for orders, networks in self.couplings:
            views = [view[:, order] for view, order in zip(views, orders, strict=True)]
            first, second = ([view[:, at] for view in views] for at in self._halves())
            first, added = self._moved(networks["s2"], first, second, condition)
            second, more = self._moved(networks["s1"], second, first, condition)
            log_det = [a + b + c for a, b, c in zip(log_det, added, more, strict=True)]
            both = zip(first, second, strict=True)
            views = [torch.cat(pair, 1).clamp(-1e6, 1e6) for pair in both]
        width = views[0].shape[1]
        found = [(0.5 * (z * z).sum(1) - own) / width for z, own in zip(views, log_det, strict=True)]
        return torch.stack(found)

    def _halves(self) -> tuple[slice, slice]:
        return slice(0, self.half), slice(self.half, None)

    def _moved(
        self, network: Any, moved: list[Any], seen: list[Any], condition: Any
    ) -> tuple[list[Any], list[Any]]:
        """One half of the channels, moved by what the network makes of the other, and its log-determinants."""
        import torch

        found, added = [], []
        for own, output in zip(moved, self._messages(network, seen, condition), strict=True):
            scale, shift = output.chunk(2, 1)
            scale = self.clamp * 0.636 * torch.atan(scale / self.clamp)
            found.append(torch.exp(scale) * own + shift)
            added.append(scale.sum(1))
        return found, added

    def _messages(self, network: Any, seen: list[Any], condition: Any) -> list[Any]:
        import torch
        from torch.nn.functional import conv2d, pad, relu

        inner, own, message, gains, border = network

        def padded(x: Any) -> Any:
            return pad(x, (border,) * 4, mode="replicate")

        inputs = [padded(torch.cat([view, condition], 1)) for view in seen]
        hidden = [padded(relu(conv2d(x, *one))) for x, one in zip(inputs, inner, strict=True)]
        found = [conv2d(y, *one) for y, one in zip(hidden, own, strict=True)]
        for target in range(len(found)):
            incoming = self.graph.incoming(target)
            arriving = [conv2d(hidden[self.graph.edges[at][0]], *message[at]) for at in incoming]
            found[target] = found[target] + sum(arriving) / len(arriving)
        return [gain * one for gain, one in zip(gains, found, strict=True)]
