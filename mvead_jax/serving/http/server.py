"""An inspector behind an address, until it is stopped."""

from __future__ import annotations

import logging
import signal
import socket

from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.serving.http.app import application
from mvead_jax.serving.http.upload import Limits
from mvead_jax.serving.inspector import Inspector

_CONNECTIONS = 64  # that may be open at a time


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that an address in use is said before the model is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}; name another") from None


def serve(inspector: Inspector, limits: Limits, keep: int, listener: socket.socket) -> None:
    """Serve until a signal comes. Args: keep: parts that the page shows.

    Raises:
      KeyboardInterrupt, Stopped: what the signal stands for.
    """
    import uvicorn

    host, port = listener.getsockname()[:2]
    logging.getLogger("mvead_jax").info(
        "serving at http://%s:%d/", f"[{host}]" if ":" in host else host, port
    )
    config = uvicorn.Config(
        application(inspector, limits, keep),
        log_level="warning",
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        server_header=False,
        timeout_keep_alive=5,
    )

    def stop(_number: int, _frame: object) -> None:
        raise Stopped("stopped serving")

    before = signal.signal(signal.SIGTERM, stop)  # the server raises the signal again when it has ended
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
