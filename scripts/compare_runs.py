"""Compare two scored runs: `python scripts/compare_runs.py` is `mvead compare`."""

from mvead_jax.commands.compare import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
