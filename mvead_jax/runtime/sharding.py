"""Work divided over all devices of all processes, and what the processes have to tell each other.

One mesh with one axis, `data`, holds every device; the devices of a process lie side by side, and so do its
rows of a batch. Samples are divided over the axis, everything that is learned is on every device. With one
device nothing here does anything.

Process 0 is the first: it alone writes results. A function that says "all must call" is a meeting: if one
process does not come, the others wait for it until it is found dead.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvead_jax.runtime.errors import Stopped, UserError, report
from mvead_jax.runtime.processes import PEER_ENDED, Processes, end_with_guard

AXIS = "data"
_JOINING_SECONDS = 300  # that processes wait for each other at the start: machines of a cluster start apart
_HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead
_SHUTDOWN_SECONDS = 20
_VISIBLE_SECONDS = 60  # that a network file system may take to show a file that another machine wrote
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_MEETING_SECONDS = 7 * 24 * 3600  # that processes wait for one that works alone
# What XLA says in an error of a collective, or of a call to the coordination service, whose peer is gone.
_PEER_GONE = re.compile(r"gloo|nccl|rccl|coordination|heartbeat|UNAVAILABLE|connection", re.IGNORECASE)

_meetings = itertools.count()  # the same in all processes


# ---- devices


@functools.cache
def mesh() -> Mesh:
    """All devices of all processes over the axis `data`, those of a process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    # No jax.make_mesh: it may order a TPU's devices by their links, and a process's rows would lie apart.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


@functools.cache
def local_mesh() -> Mesh:
    """The devices of this process over the axis `data`."""
    return Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))


def padded(size: int) -> int:
    """The smallest multiple of the number of devices that is at least `size`."""
    return -(-size // mesh().size) * mesh().size


def batch_of(count: int, most: int) -> int:
    """How many of `count` samples go through the mesh at a time, `most` on a device: no device idles while
    another has several. Of one device it is `most`, whatever the count."""
    return most if mesh().size == 1 else mesh().size * min(most, max(1, -(-count // mesh().size)))


def own_rows(size: int) -> slice:
    """The rows of a batch of `padded` size that this process holds."""
    count = size // jax.process_count()
    return slice(jax.process_index() * count, (jax.process_index() + 1) * count)


def place(rows: Any) -> Any:
    """A batch over the mesh: a tree of arrays [B,...], of which each process gives its `own_rows`."""
    if mesh().size == 1:
        return rows
    return _placed(rows, PartitionSpec(AXIS))


def replicate(tree: Any) -> Any:
    """A copy of a tree of arrays on every device; every process gives the same ones."""
    if mesh().size == 1:
        return jax.device_put(tree)
    # jax.device_put would compare the values of all processes first.
    return _placed(tree, PartitionSpec())


def _placed(tree: Any, spec: PartitionSpec) -> Any:
    sharding = NamedSharding(mesh(), spec)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def to_host(batch: jax.Array) -> np.ndarray:
    """All rows of a batch over the mesh, in every process. All must call."""
    if jax.process_count() == 1:
        return np.asarray(batch)
    return multihost_utils.process_allgather(batch, tiled=True)


def on_each_device(function: Callable[[Any, Any], Any], over: Mesh) -> Callable[[Any, Any], Any]:
    """function(shared, rows) on every device with its own rows.

    Args:
      function: of a tree of arrays that are the same for all rows, and a tree of arrays [B,...]; returns such
        a tree too.
      over: the mesh; the returned function takes, and gives, batches divided over it.
    """
    if over.size == 1:
        return function
    # No check of which values vary over the mesh: loops deep inside start from constants that do not, and
    # rows of different devices never meet in here.
    rows, shared = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(function, mesh=over, in_specs=(shared, rows), out_specs=rows, check_vma=False)


def arrived(found: Any) -> Any:
    """Return what devices compute by exchanging values; on CPUs only once it is computed.

    XLA lets 32 programs a device be under way on CPUs. With more of them queued behind each other, two devices can wait
    for a turn while the others wait for these two to join an exchange: for ever, which ends the process after 40 s.
    """
    return jax.block_until_ready(found) if jax.default_backend() == "cpu" else found


# ---- processes


def is_first() -> bool:
    """Whether this is the process that writes results."""
    return jax.process_index() == 0


def own_share(items: Sequence[Any]) -> Sequence[Any]:
    """Every n-th item, which of n processes this one is: as Grain divides a data set."""
    return items[jax.process_index() :: jax.process_count()]


def barrier() -> None:
    """Waits until all processes are here, however long that takes. All must call.

    Comes before a collective whenever one process may be late: Gloo, by which CPUs talk, gives up after half
    an hour, this after a week. A process that is dead ends both.
    """
    if jax.process_count() > 1:
        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=f"meeting {next(_meetings)}", timeout_ms=1000 * _MEETING_SECONDS)


def exchange(text: str) -> list[str]:
    """What every process says, in their order. All must call."""
    if jax.process_count() == 1:
        return [text]
    barrier()
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    room = np.zeros(max(1024, 1 << int(lengths.max() - 1).bit_length()), np.uint8)  # few sizes to compile
    room[: len(own)] = own
    rows = multihost_utils.process_allgather(room)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast(value: Any) -> Any:
    """The JSON value that the first process gives. All must call."""
    return value if jax.process_count() == 1 else json.loads(exchange(json.dumps(value))[0])


def broadcast_arrays(tree: Any) -> Any:
    """The arrays that the first process gives, bit by bit; the others give some of those shapes and types.

    All must call.
    """
    if jax.process_count() == 1:
        return tree
    barrier()

    def one(x: Any) -> np.ndarray:
        x = np.asarray(x)
        sent = np.ascontiguousarray(x).reshape(-1).view(np.uint8)  # sums of floats would lose the sign of -0
        return multihost_utils.broadcast_one_to_all(sent).view(x.dtype).reshape(x.shape)

    return jax.tree.map(one, tree)


def gathered(items: Sequence[Any]) -> list[Any]:
    """The JSON items of every process, one list after the other. All must call."""
    return [item for own in exchange(json.dumps(list(items))) for item in json.loads(own)]


def any_process(flag: bool) -> bool:
    """Whether any process gives True. All must call."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def same_in_all(value: str, problem: str) -> None:
    """Raises a UserError in all processes unless they give the same value. All must call."""
    if len(set(exchange(value))) > 1:
        raise _in_all(UserError(problem))


@contextmanager
def shared_errors() -> Iterator[None]:
    """What one process can't do, none can: a UserError inside is raised in all at the end of the block.

    All must come to the end of it, so no meeting inside.
    """
    if jax.process_count() == 1:
        yield
        return
    problem = ""
    try:
        yield
    except UserError as error:
        problem = str(error)
    if found := sorted({text for text in exchange(problem) if text}):
        raise _in_all(UserError("\n".join(found)))


def raise_in_all(error: UserError) -> None:
    """Raises an error that all processes come to by themselves, for the same reason."""
    raise _in_all(error)


def _in_all(error: UserError) -> UserError:
    error.in_all_processes = True
    return error


def check_shared(folder: Path) -> None:
    """Makes a folder, and sees to it that all processes have the same one. All must call.

    Raises:
      UserError: one does not see a file that the first has just written there.
    """
    if jax.process_count() == 1:
        return
    token = Path()
    with shared_errors():
        if is_first():
            token = folder / f".seen-by-all-{secrets.token_hex(8)}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                token.touch()
            except OSError as error:
                raise UserError(f"{folder}: {error.strerror}") from None
    name = broadcast(token.name)
    try:
        with shared_errors():
            if not visible(lambda: (folder / name).exists() or None):
                raise UserError(
                    f"{folder}: process {jax.process_index()} does not see what process 0 writes there; put "
                    "it on a file system that all processes share"
                )
    finally:
        if is_first():
            token.unlink(missing_ok=True)


def visible(look: Callable[[], Any]) -> Any:
    """What `look` returns as soon as that is not None; None if it stays so for a minute."""
    end = time.monotonic() + _VISIBLE_SECONDS
    pause = 0.01
    while (found := look()) is None and time.monotonic() < end:
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return found


# ---- start and end


@contextmanager
def joined(processes: Processes | None) -> Iterator[None]:
    """The job of one process among others; with None the only one.

    Comes before anything touches a device. An error that not all processes raise ends this one at once: the
    others wait for it, find it gone, and end too.

    Raises:
      UserError: the others can't be reached.
    """
    if processes is None:
        yield
        return
    end_with_guard()
    try:
        _initialize(processes)
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        if isinstance(error, Stopped) or getattr(error, "in_all_processes", False):
            jax.distributed.shutdown()
            raise
        _end(error)


def _end(error: BaseException) -> None:
    """Ends this process without the meeting at which JAX would wait for the others."""
    gone = isinstance(error, jax.errors.JaxRuntimeError) and _PEER_GONE.search(str(error))
    if gone:  # most likely; what it was stays to be read
        print(f"an exchange with the other processes failed: {str(error).splitlines()[0]}", file=sys.stderr)
    code = PEER_ENDED if gone else report(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _initialize(processes: Processes) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    if processes.coordinator is not None:
        logging.getLogger("mvead_jax").info(
            "process %d of %d: waits up to %d s for the others at %s",
            *(processes.number, processes.count, _JOINING_SECONDS, processes.coordinator),
        )
    local = processes.coordinator is not None and processes.coordinator.rpartition(":")[0] in _LOOPBACK
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.number,
            cluster_detection_method="deactivate" if processes.coordinator else None,
            initialization_timeout=_JOINING_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            # Else it listens on all networks.
            coordinator_bind_address=processes.coordinator if local else None,
        )
    except ValueError as error:  # something is unknown
        raise UserError(
            f"--distributed: no cluster that tells who takes part ({error}); give --coordinator HOST:PORT "
            "--processes N --process I"
        ) from None
    except RuntimeError as error:
        raise UserError(
            f"--coordinator {processes.coordinator}: the processes can't meet "
            f"({str(error).splitlines()[0]}); check the address, that its port is free, and that each "
            "process was started once"
        ) from None
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise _in_all(
            UserError(
                "processes with different numbers of devices: "
                f"{', '.join(str(counts[number]) for number in sorted(counts))}; give each as many"
            )
        )
    if not is_first():
        logging.getLogger("mvead_jax").setLevel(logging.WARNING)  # the first says the rest
