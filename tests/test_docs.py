"""What the documents name is there: files of the project, pages and headings behind links, tests behind `-k`."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
OF_OTHERS = {"configs/__base__/cfg_model_mvad.py"}  # in the repository of a peer
_PATH = re.compile(r"(?<![\w/.-])(?:tests|scripts|configs|mvead_jax|docs)/[\w/]+\.(?:py|md|csv|json|jinja)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TESTS = re.compile(r"`((?:tests/[\w/.]+ )+-k (?:\"[^\"]*\"|\w+))`")


def names(path):
    """The names of the tests in a file or a folder, without their parameters."""
    files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py")
    trees = [ast.parse(file.read_text()) for file in files]
    return [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_project_that_a_page_names_is_there(page):
    named = set(_PATH.findall(page.read_text())) - OF_OTHERS
    assert not sorted(name for name in named if not (ROOT / name).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_heading_of_it(page):
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_choice_of_tests_by_name_chooses_some(page):
    for command in _TESTS.findall(page.read_text()):
        *files, _, words = shlex.split(command)
        known = [name for file in files for name in names(file)]
        for word in words.split(" or "):
            assert any(word in name for name in known), f"{command}: no test has {word!r} in its name"
