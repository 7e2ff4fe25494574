"""`serve`: an inspector behind an address, until it is stopped."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
from collections.abc import Sequence

from mvead_jax.config.io import split_overrides
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded

DESCRIPTION = """Score the parts whose images are sent over HTTP (docs/serving.md).

python scripts/serve.py --workdir artefacts/realiad [--host 127.0.0.1] [--port 8000] [--category NAME]
curl -F C1=@C1.jpg -F C2=@C2.jpg -F C3=@C3.jpg http://127.0.0.1:8000/parts

A page at / shows the last parts; /health and /metrics (Prometheus) are for the machines around it. There is no
password: whoever reaches the address may score. Beyond this machine (--host 0.0.0.0) put a proxy before it that
knows its users. It ends by Ctrl-C (exit code 130) or SIGTERM (143), after the part in hand.

exit codes: 2 a mistake in the command or the workdir, said in one line; 130 Ctrl-C; 143 SIGTERM; 1 a bug
"""
_CONNECTIONS = 64  # that may be open at a time


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until it is stopped. argv: the words after the command's name; None: those of this process."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[console.flags()],
    )
    parser.add_argument("--workdir", required=True, type=expanded, help="a finished workdir, or an artefact")
    parser.add_argument("--category", help="the only one to load; default: all that the workdir has")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument("--most-megabytes", type=int, default=64, help="of the images of a part; default 64")
    parser.add_argument("--most-megapixels", type=int, default=40, help="of an image; default 40, at most 80")
    parser.add_argument("--waiting", type=int, default=8, help="requests at a time; default 8")
    parser.add_argument("--keep", type=int, default=20, help="parts that the page shows; default 20")
    arguments, rest = parser.parse_known_args(argv)
    console.apply(arguments)
    overrides = split_overrides(rest)
    _check(arguments)

    from mvead_jax.serving.http.app import application  # not before: --help needs no JAX
    from mvead_jax.serving.http.upload import Limits
    from mvead_jax.serving.inspector import Inspector

    with _listening(arguments.host, arguments.port) as listener:
        inspector = Inspector.load(arguments.workdir, category=arguments.category, overrides=overrides)
        limits = Limits(
            arguments.most_megabytes * 2**20, arguments.most_megapixels * 10**6, arguments.waiting
        )
        _serve(application(inspector, limits, arguments.keep), listener)


def _check(arguments: argparse.Namespace) -> None:
    """Raise a UserError for numbers that no server can have."""
    for name, most in (("most_megabytes", 4096), ("most_megapixels", 80), ("waiting", 64), ("keep", 1000)):
        if not 1 <= (value := getattr(arguments, name)) <= most:
            raise UserError(f"--{name.replace('_', '-')}={value}: must be 1 to {most}")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port={arguments.port}: must be 0 to 65535")


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that an address in use is said before the model is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}; name another") from None


def _serve(app: object, listener: socket.socket) -> None:
    """Serve until a signal comes. Raises KeyboardInterrupt or Stopped."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    logging.getLogger("mvead_jax").info(
        "serving at http://%s:%d/", f"[{host}]" if ":" in host else host, port
    )
    config = uvicorn.Config(
        app,
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
