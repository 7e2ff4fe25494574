"""Render the five-camera inspection rig: `python scripts/render_rig.py` is `mvead render-rig`."""

from mvead_jax.commands.render_rig import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
