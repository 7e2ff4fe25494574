"""Make one folder to ship of a trained run: models, thresholds, backbone, geometry, golden samples, the
scoring function for cpu, cuda and tpu, and hashes of all of it.

python scripts/export.py --workdir runs/realiad --output artefacts/realiad [--golden N] [--onnx]
    [--config.data.root=DIR ...]

Golden samples are taken from the data set that the run was trained on (--config.data.root if it has moved).
The folder is loaded as a workdir is: Inspector.load("artefacts/realiad"), score.py --workdir
artefacts/realiad --input DIR --output DIR; it needs neither network nor the data set. docs/serving.md.

exit codes: 0 written and verified; 2 a mistake in the command, the workdir or the data; 130 Ctrl-C; 1 a bug
"""

import argparse

from mvead_jax.config.io import split_overrides
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import run
from mvead_jax.runtime.paths import expanded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[console.flags()],
    )
    parser.add_argument(
        "--workdir", required=True, type=expanded, help="folder of a finished scripts/train.py"
    )
    parser.add_argument("--output", required=True, type=expanded, help="the artefact, a new folder")
    parser.add_argument("--onnx", action="store_true", help="write the scoring functions as ONNX models too")
    parser.add_argument(
        "--golden", type=int, default=2, help="samples of each category to keep with their scores; default 2"
    )
    arguments, rest = parser.parse_known_args()
    console.apply(arguments)
    overrides = split_overrides(rest)

    from mvead_jax.serving.export.artefact import export  # not before: --help needs no JAX

    options = {"golden": arguments.golden, "overrides": overrides, "onnx": arguments.onnx}
    export(arguments.workdir, arguments.output, **options)
    print(f"written to {arguments.output}; check it by scripts/verify.py {arguments.output}")


if __name__ == "__main__":
    run(main)
