"""Losses of the pre-training for TensorBoard, beside metrics.jsonl, which has them in any case.

<workdir>/tensorboard/<model>/events.out.tfevents...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvead_jax.runtime.errors import UserError

FOLDER = "tensorboard"  # of a workdir


def check_tensorboard() -> None:
    """Raises UserError if the package that writes the files is not there."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard: the package tensorboardX is missing; pip install -e '.[tensorboard]'"
        ) from None


class TensorBoardWriter:
    """Scalars of one model. A step that is written again after a resume takes the place of the earlier."""

    def __init__(self, folder: Path):
        self._folder, self._writer = folder, None

    def add(self, event: dict[str, Any]) -> None:
        """The figures of one step, as metrics.jsonl has them."""
        from tensorboardX import SummaryWriter

        step = event["step"]
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in event.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
