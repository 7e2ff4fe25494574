"""How much memory a process holds of its own at its peak, without the pages of files (RssAnon)."""

from __future__ import annotations

import threading
from pathlib import Path


class Peak:
    """Watch this process for as long as the context is open; `bytes` is then the most that was seen."""

    def __enter__(self) -> Peak:
        self.bytes = _own_bytes()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *exception) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, _own_bytes())


def _own_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("this system does not tell RssAnon")
