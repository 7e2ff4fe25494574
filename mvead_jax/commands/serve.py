"""Score the parts whose images are sent over HTTP (docs/serving.md; extra: serve).

mvead serve --workdir artefacts/realiad [--host 127.0.0.1] [--port 8000] [--category NAME]
curl -F C1=@C1.jpg -F C2=@C2.jpg -F C3=@C3.jpg http://127.0.0.1:8000/parts

It writes nothing to the disk. A page at / shows the last parts; /health and /metrics (Prometheus) are for the
machines around it. There is no password: whoever reaches the address may score. Beyond this machine (--host
0.0.0.0) put a proxy before it that knows its users. It ends by Ctrl-C (exit code 130) or SIGTERM (143), after the
part in hand.

exit codes: 2 a mistake in the command or the workdir, said in one line; 130 Ctrl-C; 143 SIGTERM; 1 a bug
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("serve", __doc__, console.flags())
    own.add_argument("--workdir", required=True, type=expanded, help="a finished workdir, or an artefact")
    own.add_argument("--category", help="the only one to load; default: all that the workdir has")
    own.add_argument("--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1")
    own.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    own.add_argument("--most-megabytes", type=int, default=64, help="of the images of a part; default 64")
    own.add_argument("--most-megapixels", type=int, default=40, help="of an image; default 40, at most 80")
    own.add_argument("--waiting", type=int, default=8, help="requests at a time; default 8")
    own.add_argument("--keep", type=int, default=20, help="parts that the page shows; default 20")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    keep_freed_memory()
    given, overrides = parser().parse_with_fields(arguments)
    console.apply(given)
    _check(given)

    from mvead_jax.serving.http.server import listening, serve  # not before: --help needs no JAX
    from mvead_jax.serving.http.upload import Limits
    from mvead_jax.serving.inspector import Inspector

    with listening(given.host, given.port) as listener:
        inspector = Inspector.load(given.workdir, category=given.category, overrides=overrides, warm=True)
        limits = Limits(given.most_megabytes * 2**20, given.most_megapixels * 10**6, given.waiting)
        serve(inspector, limits, given.keep, listener)


def _check(given: argparse.Namespace) -> None:
    """Raise a UserError for numbers that no server can have."""
    for name, most in (("most_megabytes", 4096), ("most_megapixels", 80), ("waiting", 64), ("keep", 1000)):
        if not 1 <= (value := getattr(given, name)) <= most:
            raise UserError(f"--{name.replace('_', '-')}={value}: must be 1 to {most}")
    if not 0 <= given.port <= 65535:
        raise UserError(f"--port={given.port}: must be 0 to 65535")
