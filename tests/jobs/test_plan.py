"""What a job says it will write is what it writes, and a disk without the room is refused before the work."""

import shutil

import pytest
from fake_realiad import write_realiad

from mvead_jax.config.io import load_config
from mvead_jax.data.readers import open_data
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.jobs.plan import scoring_parts, training_parts
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.base import Spec
from mvead_jax.runtime import disk
from mvead_jax.runtime.disk import Part, check_room, describe, folder_bytes
from mvead_jax.runtime.errors import UserError

HEADERS = 20_000  # of all files of a part


def fields(root, **changes):
    own = {
        "data.root": str(root),
        "data.image_size": "32",
        "backbone.name": "efficientnet-lite0",
        "backbone.batch_size": "2",
        "fusion.kind": "mvas",
        "fusion.windows": "2",
        "train.epochs": "1",
        "train.batch_size": "2",
        "train.centers": "2",
        "eval.bootstrap": "5",
    }
    return own | {key.replace("__", "."): value for key, value in changes.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "setting": "multi",
            "bank__kind": "coreset",
            "bank__share": "0.3",
            "features__dtype": "bfloat16",
        },
    ],
    ids=str,
)
def test_the_bytes_announced_are_those_on_the_disk(tmp_path, changes):
    root = write_realiad(tmp_path / "data", train=3, views=2, size=24)
    config = load_config("configs/realiad.py", fields(root, **changes))
    index = open_data(config.data.root)
    method = config.build(Spec.of(index.views, index.categories, load_method_backbone(config)))
    workdir, cache = tmp_path / "run", tmp_path / "feature_cache"
    parts = {part.what: part for part in training_parts(config, index, method, workdir)}
    assert set(parts) == {"features", "checkpoints", "models"}
    train(config, workdir)
    for what in ("features", "models"):
        found = folder_bytes(parts[what].folder)
        assert parts[what].bytes <= found < parts[what].bytes + HEADERS, what
    # One state of a two-step training is there, of three that there is room for; Orbax packs them.
    assert 0 < folder_bytes(workdir / "checkpoints") < parts["checkpoints"].bytes
    trained = folder_bytes(cache)
    parts = scoring_parts(config, index.select(split="test"), method, workdir, workdir / "scores")
    score(workdir, report=False)
    features, maps = parts
    assert features.bytes <= folder_bytes(cache) - trained < features.bytes + HEADERS
    found = folder_bytes(workdir / "scores/maps") + (workdir / "scores/bootstrap.npz").stat().st_size
    assert maps.bytes <= found < maps.bytes + HEADERS


def test_a_disk_without_the_room_is_refused_in_one_line_before_any_work(tmp_path, monkeypatch):
    root = write_realiad(tmp_path / "data", categories=("cap",), train=3, views=2, size=24)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=30_000))
    with pytest.raises(
        UserError, match=r"MB needed \(features .*, models .*\), 0.0 MB free; make room"
    ) as error:
        train(load_config("configs/realiad.py", fields(root)), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_is_there_already_needs_no_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    parts = [Part("features", tmp_path / "a/b", 5000, 4500), Part("banks", tmp_path / "c", 500)]
    check_room(parts)
    with pytest.raises(UserError, match="banks"):
        check_room([*parts, Part("models", tmp_path, 1)])
    assert describe(parts[1:]) == f"banks 0.0 MB in {tmp_path / 'c'}"
