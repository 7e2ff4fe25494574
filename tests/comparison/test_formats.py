"""One description of a table in Markdown, LaTeX and HTML: all say the same, and no name of strangers breaks one."""

import html as entities
import re

import pytest

from mvead_jax.comparison.document import Grid, Heading, Points, Table, protocol_block
from mvead_jax.comparison.html_page import html
from mvead_jax.comparison.latex import escaped, latex, tabular

NAMES = ("usb", "a_b & 50%", "[x] *y*", "$#{}^~\\", "café | <b>'\"`", "--x")
GRID = Grid(["category", "ours", "MVEAD *"], [[name, "91.5", "-0.3"] for name in NAMES])


@pytest.fixture(scope="module")
def table():
    points = Points("Protocol:", [("bank:", [f"{name}: full" for name in NAMES]), ("input: 32 x 32", ())])
    blocks = [Heading("Figures & names"), GRID, None, Points("Failed:", []), "", points]
    return Table("t", {"title": "Figures & names"}, blocks)


MACROS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textquotedbl{}": '"',
    r"\textquotesingle{}": "'",
    r"\textasciigrave{}": "`",
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
    "-{}-": "--",
    r"$\pm$": "+/-",
    **{f"\\{letter}": letter for letter in "#$%&_{}"},
}


def printed(text):
    """A cell of LaTeX as a reader sees it, by the macros that escape."""
    parts = re.split("(" + "|".join(map(re.escape, MACROS)) + ")", text)
    assert not re.search(r"[#$%&_{}^~\\]", "".join(parts[::2])), text  # nothing is left that TeX would obey
    return "".join(MACROS.get(part, part) for part in parts)


@pytest.mark.parametrize("name", [*NAMES, "+0.3 +/- 0.1"])
def test_latex_prints_a_name_as_it_is_in_ascii(name):
    assert printed(escaped(name)) == name.encode("ascii", "backslashreplace").decode()


def test_a_tabular_has_the_rules_of_booktabs_and_as_many_cells_in_each_line_as_columns():
    first, *lines, last = tabular(GRID).splitlines()
    assert first == r"\begin{tabular}{lrr}"
    assert last == r"\end{tabular}"
    assert (lines[0], lines[2], lines[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
    rows = [line.removesuffix(r" \\") for line in lines if line.endswith(r" \\")]
    assert len(rows) == 1 + len(NAMES)
    assert all(len(re.split(r"(?<!\\)&", row)) == 3 for row in rows)
    assert all(row.endswith("$-0.3$") for row in rows[1:])
    # After the \\ of the line before, these would be an argument of it.
    assert not any(row.startswith(("[", "*")) for row in rows)


def test_a_document_of_latex_opens_and_closes_every_group_and_environment(table):
    text = latex(table)
    assert text.isascii()
    assert text.count(r"\begin{document}") == 1
    plain = text.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    open_ones = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert what == "begin" or open_ones.pop() == name
        open_ones += [name] if what == "begin" else []
    assert not open_ones


def test_markdown_is_ascii_and_keeps_its_columns_whatever_the_names(table):
    assert table.text.isascii()
    rows = [line for line in table.text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(NAMES)
    assert len({len(row) for row in rows}) == 1
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)


def test_the_page_shows_every_cell_once_and_obeys_none(table):
    page = html(table)
    cells = [entities.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page)]
    assert cells == [cell for row in (GRID.header, *GRID.lines) for cell in row]
    assert "<b>" not in page
    assert "<script" not in page


def test_an_empty_block_stands_in_no_format(table):
    assert "Failed" not in table.text + latex(table) + html(table)


def test_a_protocol_names_a_group_where_all_its_runs_share_a_value():
    runs = {"a__1": {"bank": "x"}, "a__2": {"bank": "x"}, "b__1": {"bank": "y"}, "b__2": {"bank": "x"}}
    groups = {"a": ["a__1", "a__2", "a__3"], "b": ["b__1", "b__2"]}
    assert protocol_block(runs, groups).items == [("bank:", ["a, b__2: x", "b__1: y"])]
    same = {name: {"bank": "x"} for name in runs}
    assert protocol_block(same, groups).items == [("bank: x", [])]
