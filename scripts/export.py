"""Make one folder to ship of a trained run: `python scripts/export.py` is `mvead export`."""

from mvead_jax.commands.export import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
