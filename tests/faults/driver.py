"""Runs the true scripts in forked children that die, or meet a full disk, at a chosen moment.

A start of Python with JAX costs seconds, a fork of a process that has imported everything and computed
nothing costs milliseconds. So this imports once, and for each line of JSON on stdin forks a child that runs
one script:

    {"argv": ["scripts/train.py", "--config", ...], "watch": [folders], "at": 17, "how": "kill"}

and answers with a line: {"code": exit code, or -9 for SIGKILL, "events": [...], "said": what it printed}.

An event is a change of a file that Python is about to make below one of the watched folders: a file opened
for writing or appending, renamed, removed, a folder made or removed. They are numbered from 0; something
happens before event `at`. `how`:
  kill    SIGKILL.
  term    SIGTERM; what the script does then is its own affair.
  torn    of a line that is about to be appended, half is written; then SIGKILL.
  ENOSPC, EROFS, EIO   the event fails with this error, and so do all later ones but removals.
`fill`: {"leave": bytes, "path": file}: at the first event the disk is filled but for these bytes.
`limit`: bytes that a file may have (RLIMIT_FSIZE); writing more fails with EFBIG, in libraries too.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import resource
import runpy
import signal
import sys
import tempfile
import threading
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR
_NUMBERS = re.compile(r"(?<=-)\d+(?=\.tmp)|[0-9a-f]{40}|(?<=tmp-)\d+")


class Watch:
    """The audit hook of a child: names the events, and acts at one of them."""

    def __init__(self, folders, at, how, fill=None):
        self.folders, self.at, self.how = [os.path.realpath(folder) for folder in folders], at, how
        self.events: list[str] = []
        self.failing, self.fill = False, fill
        self.pid = os.getpid()
        self.lock = threading.Lock()

    def __call__(self, event, arguments):
        found = self._event(event, arguments)
        if found is None or os.getpid() != self.pid:  # not of git, which environment.py asks
            return
        path, name = found
        with self.lock:  # the report's threads write at once
            number = len(self.events)
            self.events.append(name)
        if self.fill:
            fill, self.fill = self.fill, None
            _fill(**fill)
        if self.failing and not name.startswith(("remove", "rmdir")):
            self._fail(path)
        if number == self.at:
            self._act(path, name)

    def _event(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike) or not isinstance(flags, int):
                return None
            if not flags & _WRITING or flags & getattr(os, "O_DIRECTORY", 0):
                return None
            kind = "append" if flags & os.O_APPEND else "write"
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            path = arguments[1] if event == "os.rename" else arguments[0]
            kind = event.removeprefix("os.")
        else:
            return None
        path = os.path.realpath(os.fsdecode(path))
        for folder in self.folders:
            if path.startswith(folder + "/") or path == folder:
                inside = os.path.join(os.path.basename(folder), os.path.relpath(path, folder))
                return path, f"{kind} {_NUMBERS.sub('*', inside)}"
        return None

    def _act(self, path, name):
        if self.how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.how in errno.__dict__:
            self.failing = True
            self._fail(path)
        else:
            if self.how == "torn" and name.startswith("append"):
                with open(path, "ab") as file:  # the hook sees it too, and lets it pass
                    file.write(b'{"stage": "training", "na')
            os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self, path):
        number = getattr(errno, self.how)
        raise OSError(number, os.strerror(number), path)


def _fill(leave, path):
    status = os.statvfs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))


def _child(job, events, said):
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if job.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], limits[1]))
    watch = Watch(job.get("watch", []), job.get("at"), job.get("how", "kill"), job.get("fill"))
    sys.addaudithook(watch)
    sys.argv = list(job["argv"])
    code = 1
    try:
        runpy.run_path(job["argv"][0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        watch.folders = []
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with os.fdopen(events, "w") as file:
            json.dump(watch.events, file)
        os._exit(code)


def run(job):
    """Forks; returns the answer."""
    with tempfile.TemporaryFile() as events, tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            _child(job, os.dup(events.fileno()), os.dup(said.fileno()))
        _, status = os.waitpid(pid, 0)
        events.seek(0)
        said.seek(0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return {
            "code": code,
            "events": json.loads(events.read() or "null"),
            "said": said.read().decode(errors="replace"),
        }


def main():
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import mvead_jax.evaluation.tables
    import mvead_jax.jobs.score
    import mvead_jax.jobs.train  # noqa: F401

    gc.freeze()  # or every child goes through all that was imported again and again
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
