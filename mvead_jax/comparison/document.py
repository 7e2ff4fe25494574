"""A finished table as blocks that know nothing of the format: Markdown, LaTeX and HTML are made of the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvead_jax.evaluation.markdown import ascii_text, markdown, points, protocol_points


@dataclass(frozen=True)
class Heading:
    """A heading. level: 1 of the page, 2 of a part."""

    text: str
    level: int = 1


@dataclass(frozen=True)
class Grid:
    """Lines of cells under a header. left: so many columns from the first are text, the others numbers."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Points:
    """A list. items: each with the points below it."""

    title: str
    items: Sequence[tuple[str, Sequence[str]]]

    @classmethod
    def flat(cls, title: str, items: Sequence[str]) -> Points:
        """Return a list without points below its own."""
        return cls(title, [(item, ()) for item in items])


Block = Heading | Grid | Points | str  # a text is a paragraph


@dataclass(frozen=True)
class Table:
    """A finished table. name: of its files. content: JSON. blocks: the page, in order; empty ones are left out."""

    name: str
    content: Mapping[str, Any]
    blocks: Sequence[Block | None] = field(repr=False)

    @property
    def page(self) -> list[Block]:
        """The blocks that hold something."""
        return [
            block for block in self.blocks if block and not (isinstance(block, Points) and not block.items)
        ]

    @property
    def text(self) -> str:
        """The table as Markdown in plain ASCII."""
        return ascii_text("\n\n".join(map(_markdown, self.page)) + "\n")


def protocol_block(
    protocols: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]] | None = None
) -> Points:
    """Return how our figures came about. Arguments as of `protocol_points`."""
    return Points("Protocol of our figures:", protocol_points(protocols, groups))


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Grid():
            rows = [
                [ascii_text(cell).replace("|", "\\|") for cell in row] for row in (block.header, *block.lines)
            ]
            return markdown(rows[0], rows[1:], block.left)
        case Points():
            return f"{block.title}\n\n{points(block.items)}"
        case _:
            return block
