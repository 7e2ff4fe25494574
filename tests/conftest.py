"""Strict numerics, four CPU devices and no network, for every test."""

from __future__ import annotations

import faulthandler
import os
import socket
from pathlib import Path

# Tests compile many small programs and run each a few times: LLVM's optimisations cost a third of their CPU time.
# The golden cases of whole networks compute more than they compile: `make parity` sets a level of its own.
# Of a flag that stands twice the last counts.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".strip()

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The tests compile the same small programs over and over, in several processes.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

_LAST_WORDS = Path(__file__).parent.parent / ".pytest_cache" / "last_words"  # a file of each worker of xdist
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def pytest_sessionstart(session):
    """A worker that crashes leaves its stack behind: what it prints lies in the middle of a long log."""
    _LAST_WORDS.mkdir(parents=True, exist_ok=True)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        session.config.last_words = (_LAST_WORDS / worker).open("w")
        faulthandler.enable(session.config.last_words)
    else:
        session.config.crashed = {}


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """A crash of the worker, not of an assertion: xdist's loadfile runs the test again in another worker, and that
    decides. The summary tells of the crash; where the test crashes for a second time it has failed."""
    if crashitem not in sched.config.crashed:
        report.outcome = "crashed"
    worker = report.node.gateway.id
    sched.config.crashed[crashitem] = (
        f"{report.longrepr}\n{(_LAST_WORDS / worker).read_text() or 'killed without a word'}"
    )


def pytest_terminal_summary(terminalreporter, config):
    for words in getattr(config, "crashed", {}).values():
        terminalreporter.section("a worker crashed", yellow=True)
        terminalreporter.write_line(words)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Compiled programs of a file go with it: those of all files take several GB in one process."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails at once instead of hanging."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _LOOPBACK:
            raise RuntimeError(f"a test tried to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
