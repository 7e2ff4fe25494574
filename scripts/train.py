"""Learn what good parts look like: `python scripts/train.py` is `mvead train`."""

from mvead_jax.commands.train import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
