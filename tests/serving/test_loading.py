"""An Inspector in a second process: what the first one compiled is not compiled again. True processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_realiad import write_realiad

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig

ROOT = Path(__file__).parents[2]
INSPECT = """
import json, sys
import jax
import numpy as np

compiled = []
jax.monitoring.register_event_listener(
    lambda name, **_: compiled.append(name) if name == "/jax/compilation_cache/cache_misses" else None
)
from mvead_jax import Inspector

inspector = Inspector.load(sys.argv[1])
pictures = [np.full((40, 40, 3), level, np.uint8) for level in (60, 120)]
print(json.dumps({"score": inspector.inspect(pictures).score, "compiled": len(compiled)}))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root = write_realiad(tmp_path_factory.mktemp("data"), train=3, normal=1, defective=1, views=2, size=40)
    folder = tmp_path_factory.mktemp("runs") / "run"
    backbone = BackboneConfig(name="efficientnet-lite0", weights="random", batch_size=2)
    data = DataConfig(root=str(root), image_size=64, categories=("bolt",))
    train(PatchCoreConfig(data=data, backbone=backbone), folder)
    return folder


def inspected(workdir, cache):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", INSPECT, str(workdir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_process_compiles_nothing_and_damaged_programs_are_compiled_again(workdir, tmp_path):
    before = sorted(path for path in workdir.rglob("*"))
    first = inspected(workdir, tmp_path)
    programs = sorted((tmp_path / "mvead_jax/programs").glob("*-cache"))
    assert first["compiled"] == len(programs) > 10
    second = inspected(workdir, tmp_path)
    assert second == {"score": first["score"], "compiled": 0}
    assert sorted(path for path in workdir.rglob("*")) == before  # a workdir holds no program
    for path in programs:
        path.write_bytes(path.read_bytes()[:20])  # as a process leaves it that is killed while it writes
    assert inspected(workdir, tmp_path)["score"] == first["score"]
