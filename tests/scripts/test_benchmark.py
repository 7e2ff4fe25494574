"""The command line of scripts/benchmark.py; the benchmarks themselves are run by hand (make bench)."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark")


def test_every_contest_is_one_that_can_be_named(benchmark):
    helpers = {"__init__", "block_parts", "compiled_costs", "memory", "timing"}
    names = {path.stem for path in (SCRIPTS / "benchmarks").glob("*.py")} - helpers
    assert names == set(benchmark.BENCHMARKS)


def test_each_contest_has_its_own_number_of_rounds(benchmark):
    rounds = {name: benchmark._arguments([name]).rounds for name in benchmark.BENCHMARKS}
    assert rounds["features"] == rounds["nearest"] == 9
    assert (rounds["coreset"], rounds["disk"], rounds["metrics"]) == (3, 3, 5)


def test_quick_takes_small_sizes_and_what_is_written_out_wins(benchmark):
    for name in benchmark.BENCHMARKS:
        assert benchmark._arguments([name, "--quick"]).quick
    quick = benchmark._arguments(["nearest", "--quick", "--rounds", "2"])
    assert (quick.rows, quick.rounds) == (10_000, 2)
