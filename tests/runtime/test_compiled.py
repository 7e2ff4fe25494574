"""runtime/compiled.py: where compiled programs are kept, and when they are not; processes: serving/test_loading.py."""

import os
from pathlib import Path

import jax
import pytest

from mvead_jax.runtime import compiled
from mvead_jax.runtime.compiled import keep_programs, own_folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mvead_jax/programs"


@pytest.fixture
def unset():
    """JAX without the folder that the tests keep their programs in; nothing is compiled meanwhile."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_own_folder_which_nobody_else_may_enter(cache, unset):
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(cache)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_the_user_has_named_stays_and_so_does_a_cache_that_is_turned_off(cache, unset):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", "/somewhere/else")
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == "/somewhere/else"
    assert not cache.exists()


@pytest.mark.parametrize("problem", ["a file in its place", "writable by others", "no home folder"])
def test_nothing_is_kept_where_the_folder_cannot_be_used(cache, unset, monkeypatch, tmp_path, problem):
    if problem == "a file in its place":
        cache.parent.write_text("")
    elif problem == "writable by others":
        cache.mkdir(parents=True)
        cache.chmod(0o777)  # who can write there could have his own machine code run
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.chdir(tmp_path)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert not Path(tmp_path, "relative").exists()


def test_the_programs_that_were_written_first_go_when_the_folder_is_full(cache, monkeypatch):
    cache.mkdir(parents=True, mode=0o700)
    for number in range(5):
        path = cache / f"jit_f-{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (0, number if number else 10))  # the first one was written last
    monkeypatch.setattr(compiled, "_MOST_BYTES", 250)
    assert own_folder() == cache
    assert sorted(path.name for path in cache.iterdir()) == ["jit_f-0-cache", "jit_f-4-cache"]
