"""What outlives a killed run: which state comes back, which lines of metrics.jsonl stay, and SIGTERM."""

import errno
import gc
import json
import os
import shutil
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.training.checkpoints import Checkpoints

# A read that fails leaves Orbax's event loop to be collected half-closed; Python then complains about it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    """What a test leaves behind is collected in that test, not in another file's."""
    yield
    gc.collect()


def state_of(step, seed=0):
    rng = np.random.default_rng([seed, step])
    parameters = {"query": {"kernel": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}}
    return {
        "parameters": parameters,
        "optimizer": optax.adamw(1e-3).init(parameters),
        "extras": rng.normal(size=(2, 3, 4)).astype("f4"),
        "step": np.int32(step),
    }


@pytest.fixture
def open_states(tmp_path):
    """A function that opens the states of a model as a run does when it begins."""
    opened = []

    def make(decides=None, model="cap", **options):
        for earlier in opened:
            earlier.close()
        folder = tmp_path / "checkpoints" / model
        metrics = tmp_path / "metrics.jsonl"
        opened.append(Checkpoints(folder, metrics, model, decides or {"seed": 0}, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def assert_is(found, step):
    expected = state_of(step)
    assert int(found["step"]) == step
    np.testing.assert_array_equal(
        found["parameters"]["query"]["kernel"], expected["parameters"]["query"]["kernel"]
    )
    np.testing.assert_array_equal(found["extras"], expected["extras"])
    assert type(found["optimizer"][0]) is type(expected["optimizer"][0])


def write(states, *steps):
    for step in steps:
        states.save(state_of(step))


def test_the_newest_state_comes_back_in_its_shapes(open_states):
    assert open_states().restore(state_of(0)) is None
    write(open_states(), 0, 3, 6)
    assert_is(open_states().restore(state_of(0)), 6)


def test_a_state_that_is_there_already_stays(open_states):
    states = open_states()
    write(states, 3)
    states.save(state_of(3, seed=9))
    assert_is(open_states().restore(state_of(0)), 3)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_newest_state_gives_way_to_the_one_before_it_with_a_warning(
    open_states, tmp_path, caplog, damage
):
    write(open_states(), 3, 6)
    newest = tmp_path / "checkpoints/cap/6"
    victims = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 4000]
    assert victims  # the numbers themselves
    for path in victims:
        damage(path)
    states = open_states()
    assert_is(states.restore(state_of(0)), 3)
    assert "state 6 can't be read" in caplog.text
    assert not newest.exists()
    assert newest.with_name("6.unreadable").is_dir()
    write(states, 6)  # the run gets there again
    assert not newest.with_name("6.unreadable").exists()
    assert_is(open_states().restore(state_of(0)), 6)


def test_a_state_that_could_not_be_read_for_a_while_can_be_put_back(open_states, tmp_path):
    write(open_states(), 3, 6)
    folder = tmp_path / "checkpoints/cap"
    hidden = folder / "6/default/_METADATA", tmp_path / "hidden"
    hidden[0].rename(hidden[1])
    assert_is(open_states().restore(state_of(0)), 3)
    (folder / "6.unreadable").rename(folder / "6")
    hidden[1].rename(hidden[0])
    assert_is(open_states().restore(state_of(0)), 6)


def test_a_state_that_the_system_can_not_read_now_stops_the_run_and_stays(open_states, tmp_path):
    """TensorStore tells the number of such an error in its text; here it is that of a link to itself."""
    write(open_states(), 3, 6)
    newest = tmp_path / "checkpoints/cap/6"
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    kept = victim.read_bytes()
    victim.unlink()
    victim.symlink_to(victim.name)
    with pytest.raises(UserError, match="state 6 can't be read now .*Too many levels of symbolic links"):
        open_states().restore(state_of(0))
    victim.unlink()
    victim.write_bytes(kept)
    assert_is(open_states().restore(state_of(0)), 6)


def test_if_no_state_can_be_read_the_run_starts_over(open_states, tmp_path):
    write(open_states(), 3, 6)
    for step in (3, 6):
        for path in sorted((tmp_path / f"checkpoints/cap/{step}").iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert open_states().restore(state_of(0)) is None


def test_a_state_in_the_middle_of_being_written_is_none(open_states, tmp_path):
    write(open_states(), 3)
    shutil.copytree(tmp_path / "checkpoints/cap/3", tmp_path / "checkpoints/cap/6.orbax-checkpoint-tmp-17")
    assert_is(open_states().restore(state_of(0)), 3)


ORIGIN = {"seed": 0, "train": {"epochs": 3}, "features": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"epochs": 4}}, "(train.epochs: 3 is now 4)"),
        ({"seed": 1, "features": "1" * 64}, "(features; seed: 0 is now 1)"),
    ],
)
def test_states_of_other_settings_or_data_are_refused_and_stay(open_states, tmp_path, changes, told):
    write(open_states(ORIGIN), 3, 6)
    folder = tmp_path / "checkpoints/cap"
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as error:
        open_states(ORIGIN | changes)
    assert str(error.value) == (
        f"{folder}: 2 states of a training with other settings or data {told}; go back to those, take "
        "another --workdir, or delete the folder to start over"
    )
    assert sorted(folder.rglob("*")) == before
    assert_is(open_states(dict(reversed(ORIGIN.items()))).restore(state_of(0)), 6)
    shutil.rmtree(folder)
    assert open_states(ORIGIN | changes).restore(state_of(0)) is None


def test_states_that_led_to_a_finished_model_go_when_it_is_made_again(open_states, tmp_path, caplog):
    write(open_states(ORIGIN), 3)
    write(open_states(model="bolt"), 3)
    assert open_states(ORIGIN | {"seed": 1}, replace=True).restore(state_of(0)) is None
    assert "checkpoints/cap: 1 states are removed and made again: they are of other settings" in caplog.text
    assert not (tmp_path / "checkpoints/cap/3").exists()
    assert_is(open_states(model="bolt").restore(state_of(0)), 3)


def test_states_of_nobody_knows_what_go_with_a_warning_and_a_folder_without_any_goes_silently(
    open_states, tmp_path, caplog
):
    origin = tmp_path / "checkpoints/cap/origin.json"
    for damage in (origin.unlink, lambda: origin.write_text("{")):
        write(open_states(), 3)
        damage()
        caplog.clear()
        assert open_states().restore(state_of(0)) is None
        assert "1 states are removed and made again: it is not known of what they are" in caplog.text
    caplog.clear()
    assert open_states({"seed": 7}).restore(state_of(0)) is None
    assert caplog.text == ""


def test_an_origin_that_can_not_be_read_now_stops_the_run_and_the_states_stay(
    open_states, tmp_path, monkeypatch
):
    write(open_states(), 3)
    read = Path.read_bytes

    def refuse(path):
        if path.name == "origin.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(UserError, match=r"cap/origin.json: Input/output error; mend that and run again"):
            open_states()
    assert_is(open_states().restore(state_of(0)), 3)


# ---- metrics.jsonl


def test_lines_that_are_made_again_go_and_all_others_stay(open_states, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"stage": "start"}\n')
    states = open_states()
    for step in range(5):
        states.record({"step": step, "loss": 0.5})
    write(states, 3)
    with metrics.open("a") as file:
        file.write('{"stage": "training", "name": "bolt", "step": 9}\n')
        file.write('{"stage": "model", "name": "cap"}\n{"stage": "trai')
    open_states().restore(state_of(0))
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(event["stage"], event.get("name"), event.get("step")) for event in events] == [
        ("start", None, None),
        *(("training", "cap", step) for step in range(3)),
        ("training", "bolt", 9),
        ("model", "cap", None),
    ]


def test_without_a_state_all_lines_of_the_model_go(open_states, tmp_path):
    states = open_states()
    states.record({"step": 0, "loss": 0.5})
    states.restore(state_of(0))
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# ---- SIGTERM


def test_sigterm_asks_to_stop_and_the_earlier_handler_comes_back(open_states):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("earlier"))
    try:
        states = open_states()
        with states.heeding_sigterm():
            assert not states.stopping()
        with pytest.raises(ValueError, match="x"), states.heeding_sigterm():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGTERM)
            assert states.stopping()
            raise ValueError("x")
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["earlier"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_after_the_last_step_is_not_forgotten(open_states):
    with pytest.raises(Stopped, match="training cap"), open_states().heeding_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
