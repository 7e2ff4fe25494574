"""A tiny run of the true scripts that can be stopped anywhere, and what two runs must have in common."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fake_realiad import write_realiad
from safetensors.numpy import save_file

from mvead_jax.backbones.dinov2.params import key_table, read_config
from mvead_jax.backbones.weights import CONFIG, TENSORS
from mvead_jax.rig.cameras import five_cameras

ROOT = Path(__file__).parents[2]
SIZE = 40  # pixels of a stored image
SLOW = 300  # seconds after which a job hangs
TEMPORARY = re.compile(r"\.tmp$|orbax-checkpoint-tmp|\.seen-by-all")
# As one device sees it; the compiled programs of all jobs are shared.
ENVIRONMENT = {
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax-faults"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "OMP_NUM_THREADS": "1",  # two workers share two cores
    "PYTHONPATH": str(ROOT),
}
FIELDS = {
    "data.image_size": "64",
    "backbone.name": "dinov2-small",
    "backbone.block": "1",
    "geometry.cameras": "cameras.json",
    "fusion.init": "random",
    "train.epochs": "2",
    "train.batch_size": "2",
    "train.centers": "2",
    "eval.bootstrap": "5",
    "decision.held_out": "0.4",
    "decision.false_alarms": "0.5",
}


def write_data(root: Path, **changes) -> Path:
    """`cap` from two known cameras, and the weights of a backbone."""
    options = {"categories": ("cap",), "train": 5, "normal": 2, "defective": 2, "views": 2, "size": SIZE}
    write_realiad(root, **options | changes)
    rig = five_cameras(SIZE)
    views = {
        f"C{v + 1}": {"K": rig.K[v].tolist(), "R": rig.R[v].tolist(), "t": rig.t[v].tolist()} for v in (0, 1)
    }
    (root / "cameras.json").write_text(json.dumps({"categories": {"cap": {"views": views}}}))
    write_weights(root / "weights")
    return root


def write_weights(folder: Path) -> Path:
    """A DINOv2 of one block and of drawn numbers: what takes a job its time is tracing the network."""
    shape = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_ratio": 1}
    folder.mkdir()
    shape |= {"model_type": "dinov2", "image_size": 64, "patch_size": 16}
    (folder / CONFIG).write_text(json.dumps(shape))
    rng = np.random.default_rng(0)
    table = key_table(read_config(folder))
    tensors = {key: rng.normal(0, 0.1, source.shape).astype(np.float32) for key, source in table.items()}
    save_file(tensors, folder / TENSORS)
    return folder


def arguments(script: str, workdir: Path, data: Path, **changes) -> list[str]:
    """The command line of a script, without Python."""
    argv = [f"scripts/{script}.py", "--workdir", str(workdir)]
    if script == "train":
        fields = FIELDS | {"data.root": str(data), "backbone.weights": str(data / "weights")}
        fields |= {key.replace("__", "."): value for key, value in changes.items()}
        argv += ["--config", "configs/realiad.py", *(f"--config.{k}={v}" for k, v in fields.items())]
    return argv


class Lab:
    """Runs jobs below a folder: `<folder>/<name>/run` is a workdir, its features lie beside it."""

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder, self.data = folder, write_data(folder / "data")
        self.started = 0

    def __enter__(self) -> Lab:
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._driver.kill()
        self._driver.communicate()

    def _start(self) -> None:
        self._driver = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            text=True,
        )
        assert self._answer() == "ready\n"

    def _answer(self) -> str:
        ready, _, _ = select.select([self._driver.stdout], [], [], SLOW)
        if not ready:
            self._driver.kill()
        assert ready, f"no answer in {SLOW} s"
        return self._driver.stdout.readline()

    def run(self, script: str, name: str, *, options=(), changes=None, **fault) -> dict:
        """One job in a forked child; `fault` as of driver.py."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        argv = [*arguments(script, place / "run", self.data, **changes or {}), *options]
        job = {"argv": argv, "watch": [str(place)], **fault}
        self._driver.stdin.write(json.dumps(job) + "\n")
        self._driver.stdin.flush()
        return json.loads(self._answer())

    def done(self, script: str, name: str, **more) -> dict:
        """A job that must end well."""
        answer = self.run(script, name, **more)
        assert answer["code"] == 0, answer["said"]
        return answer

    def copy(self, source: str, name: str) -> Path:
        return shutil.copytree(self.folder / source, self.folder / name)

    def forget(self, name: str) -> None:
        shutil.rmtree(self.folder / name)


@contextmanager
def finished(folder: Path):
    """A lab with `trained`, a workdir as train.py leaves it, and `scored`, one as score.py leaves it."""
    with Lab(folder) as lab:
        lab.done("train", "trained")
        lab.copy("trained", "scored")
        lab.done("score", "scored")
        yield lab


def contents(place: Path) -> dict[str, object]:
    """All that must be the same in an interrupted run and in one that was not, by path.

    Left out, because it tells of the runs themselves: in metrics.jsonl the lines of starts and the seconds;
    of checkpoints, in which Orbax writes times and random names, all but which there are and their origin;
    of environment.json the commit, for someone may work on the checkout; command.json; .lock of a folder that
    someone worked in.
    """
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_dir() or "/checkpoints/" in f"/{name}" or path.name in ("command.json", ".lock"):
            continue
        found[name] = _READERS.get(path.name, Path.read_bytes)(path)
    for folder in place.glob("run/checkpoints/*"):
        found[f"{folder.name} states"] = sorted(path.name for path in folder.iterdir())
        found[f"{folder.name} origin"] = (folder / "origin.json").read_bytes()
    return found


def events(path: Path) -> list:
    """The lines of a metrics.jsonl, those of a stage together; one that is no JSON makes the test fail."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found.sort(key=lambda event: event["stage"])  # what is done again comes later
    return [
        {key: value for key, value in event.items() if key != "seconds"}
        for event in found
        if event["stage"] != "start"
    ]


def environment(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "commit"}


_READERS = {"metrics.jsonl": events, "environment.json": environment}


def leftovers(place: Path) -> list[str]:
    """Temporary files and folders."""
    return [str(path) for path in place.rglob("*") if TEMPORARY.search(path.name)]


def differing(place: Path, whole: Path) -> list[str]:
    """What two places do not have in common, and what lies about."""
    own, expected = contents(place), contents(whole)
    differ = [name for name in own | expected if own.get(name) != expected.get(name)]
    return differ + leftovers(place)


def is_one_line(said: str) -> bool:
    """Whether a script ended with one line that names the error, and no traceback."""
    last = [line for line in said.splitlines() if line.strip()][-1]
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    return errors == [last] and "Traceback" not in said
