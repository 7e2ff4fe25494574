"""Study a device: `python scripts/study_device.py` is `mvead study-device`."""

from mvead_jax.commands.study_device import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
