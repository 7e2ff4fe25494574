"""data/safe_paths.py and runtime/paths.py: names and paths from outside."""

import os
from pathlib import Path

import pytest

from mvead_jax.data.safe_paths import Folder, decoded, respelled, unsafe_path
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

NFC, NFD = "\u00e9", "e\u0301"


def test_a_path_is_found_in_either_spelling_of_each_of_its_parts(tmp_path):
    (tmp_path / f"a{NFD}" / f"b{NFC}").mkdir(parents=True)
    (tmp_path / f"a{NFD}" / f"b{NFC}" / f"c{NFD}.png").write_bytes(b"x")
    inside = Folder(tmp_path)
    actual = f"a{NFD}/b{NFC}/c{NFD}.png"
    for first in (NFC, NFD):
        for second in (NFC, NFD):
            assert inside.find(f"a{first}/b{second}/c{first}.png") == (actual, None)
            assert respelled(tmp_path / f"a{first}/b{second}") == tmp_path / f"a{NFD}/b{NFC}"
    assert inside.find(f"a{NFC}/none{NFC}.png") == (f"a{NFC}/none{NFC}.png", "no such file")
    assert respelled(tmp_path / f"none{NFC}") == tmp_path / f"none{NFC}"


def test_of_two_files_that_look_alike_the_one_that_is_spelled_so_is_taken(tmp_path):
    for spelling in (NFC, NFD):
        (tmp_path / f"{spelling}.png").write_text(spelling)
    inside = Folder(tmp_path)
    for spelling in (NFC, NFD):
        assert inside.find(f"{spelling}.png") == (f"{spelling}.png", None)
        assert respelled(tmp_path / f"{spelling}.png") == tmp_path / f"{spelling}.png"
    mixed = f"{NFC}{NFD}.png"
    for spelling in (NFC + NFC, NFD + NFD):
        (tmp_path / f"{spelling}.png").write_text(spelling)
    assert inside.find(mixed)[1] == "no such file"  # as the folder was listed before
    assert "there twice, spelled with other code points" in Folder(tmp_path).find(mixed)[1]
    assert respelled(tmp_path / mixed) == tmp_path / mixed


def test_another_spelling_leads_no_link_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / f"{NFD}.png").symlink_to(tmp_path / "secret.png")
    (root / f"folder{NFD}").symlink_to(tmp_path)
    inside = Folder(root)
    assert "is a link out of" in inside.find(f"{NFC}.png")[1]
    assert "is a link out of" in inside.find(f"folder{NFC}/secret.png")[1]


def test_a_relative_path_is_respelled_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NFD).mkdir()
    assert respelled(Path(NFC)) == Path(NFD)
    assert respelled(Path("plain")) == Path("plain")


@pytest.mark.parametrize(
    "path", ["..\\x", "a\\..\\..\\x", "\\etc\\passwd", "C:\\x", "\\\\server\\share\\x", "a\0b", "", None]
)
def test_backslashes_lead_nowhere_that_slashes_do_not(path):
    assert unsafe_path(path)


def test_text_of_other_programs_is_decoded():
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
        assert decoded((mark + "ä上").encode(encoding)) == "ä上"
    for content in (b"\xff", b"\xff\xfea", b"\xc3\x28"):
        with pytest.raises(UnicodeDecodeError):
            decoded(content)


def test_a_tilde_is_the_home_folder_at_the_beginning_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert expanded("~") == Path("/home/someone")
    assert expanded("~/runs/x") == expanded(Path("~/runs/x")) == Path("/home/someone/runs/x")
    for path in ("./~", "a/~", "x~", "/tmp/x", "", "x/../~"):
        assert expanded(path) == Path(path)
    with pytest.raises(UserError, match=f"~{'x' * 40}/y: the system knows no home folder"):
        expanded(f"~{'x' * 40}/y")
    assert os.fspath(expanded("runs")) == "runs"
