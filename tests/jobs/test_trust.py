"""A run of which no pair of views is trusted: what it trains, what it is called, and how it goes on."""

import json
import logging

import pytest
from fake_realiad import write_realiad

from mvead_jax.config.io import load_config
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images that show nothing to match."""
    return write_realiad(tmp_path_factory.mktemp("data"), categories=("cap",), train=3, views=2, size=24)


def config_for(root, spec="folder", **changes):
    own = {"data.root": str(root), "data.image_size": "32", "backbone.batch_size": "2", "eval.bootstrap": "5"}
    own |= {"train.epochs": "1", "train.batch_size": "2", "train.centers": "2"} if spec == "folder" else {}
    return load_config(spec, own | {k.replace("__", "."): v for k, v in changes.items()})


def test_nothing_is_pre_trained_and_all_files_call_the_run_what_it_is(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mvead_jax")
    config = config_for(root)
    train(config, tmp_path / "run")
    assert "this run is patchcore, not mvead: no pair of views is trusted" in caplog.text
    assert "cap: C1 and C2: " in caplog.text  # why
    assert "geometry.nominal" in caplog.text
    assert not (tmp_path / "run/checkpoints").exists()
    assert json.loads((tmp_path / "run/config.json").read_text())["method"] == "patchcore"
    assert "trained" not in {
        json.loads(one)["stage"] for one in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    }
    protocol = score(tmp_path / "run")["protocol"]
    assert protocol["method"] == "patchcore"
    assert protocol["method_trained"].startswith("patchcore, not mvead: no pair of views is trusted")
    page = (tmp_path / "run/scores/report/index.html").read_text()
    assert "patchcore, not mvead" in page
    before = (tmp_path / "run/models/cap/state.safetensors").stat().st_mtime_ns
    train(config, tmp_path / "run")  # the same command again
    assert (tmp_path / "run/models/cap/state.safetensors").stat().st_mtime_ns == before
    train(config_for(root, "folder:patchcore"), tmp_path / "other")
    scored = score(tmp_path / "other", report=False)
    assert scored["mean"] == json.loads((tmp_path / "run/scores/metrics.json").read_text())["mean"]
    assert "method_trained" not in scored["protocol"]


def test_a_workdir_of_such_a_run_takes_no_other_settings(root, tmp_path):
    train(config_for(root), tmp_path / "run")
    kept = (tmp_path / "run/config.json").read_bytes()
    for changes in ({"seed": "1"}, {"geometry__on_failure": "unconstrained"}):
        with pytest.raises(UserError, match="trained with another config .*take another --workdir"):
            train(config_for(root, **changes), tmp_path / "run")
    assert (tmp_path / "run/config.json").read_bytes() == kept


def test_where_untrusted_pairs_attend_to_everything_it_stays_what_it_is(root, tmp_path):
    train(config_for(root, geometry__on_failure="unconstrained"), tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["method"] == "mvead"
    assert (tmp_path / "run/checkpoints").exists()
