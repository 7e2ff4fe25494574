r"""A finished table as a LaTeX document of its own, with booktabs; a tabular of it can be taken into any other.

Names of categories and configs are those of strangers: every letter that TeX obeys is escaped, and what is not ASCII
shows its number, so that the document compiles by any LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mvead_jax.comparison.document import Block, Grid, Heading, Points, Table
from mvead_jax.evaluation.markdown import ascii_text
from mvead_jax.runtime.errors import printable

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # After the \\ of a line of a tabular these would be its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
}
_NUMBER = re.compile(r"[-+]\d[\d.]*")
_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\begin{document}
"""
# As wide as it is, and no wider than the page.
_FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def latex(table: Table) -> str:
    """Return the document of a table."""
    return _HEAD + "\n\n".join(map(_block, table.page)) + "\n\n\\end{document}\n"


def escaped(text: str) -> str:
    """Return a text as LaTeX prints it."""
    plain = ascii_text(printable(text)).replace("+/-", "\0")
    found = "".join(_ESCAPED.get(letter, letter) for letter in plain)
    return found.replace("--", "-{}-").replace("\0", r"$\pm$")


def tabular(grid: Grid) -> str:
    """Return a grid as a tabular."""
    columns = "".join("l" if n < grid.left else "r" for n in range(len(grid.header)))
    lines = [_line(row) for row in grid.lines]
    parts = [_line(grid.header), r"\midrule", *lines] if lines else [_line(grid.header)]
    body = "\n".join([r"\toprule", *parts, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    """A signed number has a minus, no hyphen."""
    found = escaped(text)
    return f"${found}$" if _NUMBER.fullmatch(text) else found


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"\\{'sub' * (block.level - 1)}section*{{{escaped(block.text)}}}"
        case Grid():
            return f"{_FITTED}\n{tabular(block)}}}"
        case Points():
            return f"{escaped(block.title)}\n{_itemize(block.items)}"
        case _:
            return escaped(block)


def _itemize(items: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = []
    for text, below in items:
        lines.append(f"\\item {escaped(text)}")
        if below:
            lines.append(_itemize([(own, ()) for own in below]))
    return "\n".join([r"\begin{itemize}", *lines, r"\end{itemize}"])
