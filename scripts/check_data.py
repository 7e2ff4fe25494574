"""Say whether a data set can be used: `python scripts/check_data.py` is `mvead check`."""

from mvead_jax.commands.check import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
