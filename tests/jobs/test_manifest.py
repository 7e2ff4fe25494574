"""The manifest of a workdir: which files it vouches for, and what it says of those that changed."""

import pytest

from mvead_jax.jobs.manifest import Manifest
from mvead_jax.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models" / "cap"
    folder.mkdir(parents=True)
    (folder / "facts.json").write_text("{}")
    (folder / "state.safetensors").write_bytes(bytes(100))
    Manifest(tmp_path).record(folder)
    return folder


def test_the_manifest_covers_what_it_has_seen(folder, tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.covers(folder)
    assert not manifest.covers(tmp_path / "models" / "other")
    manifest.verify(folder)


def test_files_that_went_are_forgotten_and_hidden_ones_never_seen(folder, tmp_path):
    (folder / ".tmpAbC123").write_bytes(b"half")
    (folder / "facts.json").unlink()
    Manifest(tmp_path).record(folder)
    manifest = Manifest(tmp_path)
    assert manifest.names(folder) == ["models/cap/state.safetensors"]
    manifest.verify(folder)
    manifest.forget(folder)
    assert not Manifest(tmp_path).covers(folder)


@pytest.mark.parametrize("damage", ["flip", "delete", "swap", "add"])
def test_a_changed_model_is_refused_by_name(folder, tmp_path, damage):
    one, two = folder / "facts.json", folder / "state.safetensors"
    if damage == "flip":
        data = bytearray(one.read_bytes())
        data[-1] ^= 1
        one.write_bytes(data)
    elif damage == "delete":
        one.unlink()
    elif damage == "swap":
        a, b = one.read_bytes(), two.read_bytes()
        one.write_bytes(b)
        two.write_bytes(a)
    else:
        (folder / "more.safetensors").write_bytes(one.read_bytes())
    manifest = Manifest(tmp_path)
    assert manifest.covers(folder) == (damage == "add")
    with pytest.raises(
        UserError, match=r"more.safetensors: not in" if damage == "add" else r"facts.json: missing"
    ):
        manifest.verify(folder)


def test_untrained_folders_say_so(tmp_path):
    with pytest.raises(UserError, match="training has not finished"):
        Manifest(tmp_path).verify(tmp_path / "models" / "cap")


@pytest.mark.parametrize("text", ["[]", '{"../x": "0"}', '{"models/cap/x": 1}'])
def test_a_manifest_that_is_none_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json: not a manifest"):
        Manifest(tmp_path)
