"""A finished table as one HTML page that needs no other file and no script."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from mvead_jax.comparison.document import Table


def html(table: Table) -> str:
    """Return the page of a table."""
    environment = Environment(
        loader=PackageLoader("mvead_jax.comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    blocks = [(type(block).__name__, block) for block in table.page]
    return environment.get_template("table.html.jinja").render(title=table.content["title"], blocks=blocks)
