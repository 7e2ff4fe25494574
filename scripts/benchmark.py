"""Timed benchmarks of this code beside its peers, on one machine, alternating.

    python scripts/benchmark.py nearest [options]
    python scripts/benchmark.py all [--quick] [--json FILE]

`all` runs every benchmark, each in a process of its own, and prints one table of ratios; a benchmark whose peer
is not installed is named and left out. `--quick` takes small sizes and few rounds: under three minutes, to
see that everything runs, not to quote.

Contestants alternate round by round and medians are compared, because one machine's rounds differ by more
than contestants do. A benchmark checks first that both give the same numbers. `ratio` is ours divided by the
peer's, so 1.0 is a draw and more is faster. Writes nothing but --json.

exit codes: 0 all ran; 2 a mistake in the command, or a benchmark failed; 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.paths import expanded

BENCHMARKS = (
    "features",
    "engines",
    "layers",
    "attention",
    "epoch",
    "nearest",
    "disk",
    "coreset",
    "metrics",
    "end_to_end",
    "latency",
    "multiflow",
    "mvad",
)


def main() -> None:
    args = _arguments(sys.argv[1:])
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json={args.json}: there is no directory {args.json.parent}; make it first")
    if args.benchmark == "all":
        results = _all(args)
    else:
        for option, value in vars(args).items():
            if type(value) is int and value < 1:
                raise UserError(f"--{option}={value}: must be at least 1")
        alone = getattr(args, "own", False)  # ours only, with no peer
        if not alone and (missing := _missing(args.benchmark)):
            extra = "engines" if args.benchmark in ("engines", "layers") else "bench"
            raise UserError(
                f"{args.benchmark}: needs {missing}; pip install -c constraints.txt -e .[{extra}]"
            )
        results = _module(args.benchmark).measure(args)
    if args.json:
        content = {"environment": environment(), "quick": args.quick, "benchmarks": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=expanded, help="write the results, with the environment, to this file")
    common.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    for name in BENCHMARKS:
        module = _module(name)
        line = module.__doc__.split(". ")[0]
        one = benchmarks.add_parser(
            name, parents=[_rounds(), common], help=line, description=module.__doc__, formatter_class=raw
        )
        module.arguments(one)
    benchmarks.add_parser("all", parents=[common], help="every benchmark, and a table of ratios")
    args = parser.parse_args(given)
    if args.quick and args.benchmark != "all":
        quick = _module(args.benchmark).QUICK
        return parser.parse_args([args.benchmark, *quick, *given[1:]])  # what is written out wins
    return args


def _rounds() -> argparse.ArgumentParser:
    """What every benchmark has. One for each: a default that a benchmark sets is that of its parents too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--rounds", type=int, default=9, help="timed rounds; each calls every contestant once"
    )
    parser.add_argument("--threads", type=int, default=2, help="cores that each contestant may use")
    return parser


def _all(args: argparse.Namespace) -> list[dict]:
    """Runs every benchmark in its own process; what one leaves in memory or on its threads meets no other."""
    results, missing = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in BENCHMARKS:
            if _missing(name):
                missing.append(name)
                continue
            print(f"== {name}", flush=True)
            place = Path(folder) / f"{name}.json"
            command = [sys.executable, __file__, name, f"--json={place}", *(["--quick"] * args.quick)]
            if code := subprocess.run(command).returncode:
                raise UserError(f"benchmark {name} ended with exit code {code}; its message is above")
            results += json.loads(place.read_text())["benchmarks"]
    print("\n| benchmark | ours | peer | ratio |\n|---|---|---|---|")
    for result in results:
        rates, ours, unit = result["per_second"], result["ours"], result["unit"]
        for peer, ratio in result["ratios"].items():
            name = result["benchmark"]
            print(
                f"| {name} | {ours}: {rates[ours]:.4g} {unit}/s | {peer}: {rates[peer]:.4g} | {ratio:.2f} |"
            )
    if missing:
        print(f"left out, their peers are not installed: {', '.join(missing)} (pip install -e .[bench])")
    return results


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _missing(name: str) -> str:
    """Packages of a benchmark's peers that are not installed, or nothing."""
    return ", ".join(one for one in _module(name).NEEDS if importlib.util.find_spec(one) is None)


if __name__ == "__main__":
    run(main)
