"""A finished table as one HTML page that needs no other file and no script."""

from __future__ import annotations

from mvead_jax.comparison.document import Table
from mvead_jax.runtime.templates import rendered


def html(table: Table) -> str:
    """Return the page of a table."""
    blocks = [(type(block).__name__, block) for block in table.page]
    return rendered("mvead_jax.comparison", "table.html.jinja", title=table.content["title"], blocks=blocks)
