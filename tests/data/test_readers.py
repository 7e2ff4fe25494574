"""data/readers.py: readers by name, what `auto` finds, and readers of others."""

import csv
import dataclasses
import logging
import shutil
import sys
from importlib.metadata import EntryPoint

import pytest
from fake_realiad import edit_list, write_realiad
from own_data import write_folders

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.check import check_data
from mvead_jax.data.check_text import as_text
from mvead_jax.data.readers import (
    READERS,
    data_root,
    detected,
    open_configured,
    open_data,
    read_data,
    reader_of,
    reader_options,
    source_words,
)
from mvead_jax.data.realiad import load_index
from mvead_jax.data.records import Listing, Sample, View
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.runtime import registry
from mvead_jax.runtime.errors import DataProblems, UserError

VIEWS = {"top": (".png", (24, 24)), "side": (".png", (24, 24))}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The same kind of data in the layout of each reader."""
    place = tmp_path_factory.mktemp("roots")
    roots = {
        "folder": write_folders(place / "folder", VIEWS, train=2, good=1, defective=1),
        "real_iad": write_realiad(
            place / "real_iad", categories=("cap",), train=2, normal=1, defective=1, size=16
        ),
        "manifest": write_manifest(
            place / "manifest", write_folders(place / "listed", VIEWS, train=2, good=1)
        ),
        "prepared": place / "prepared",
    }
    prepare(roots["real_iad"], roots["prepared"])
    return roots


def write_manifest(root, data):
    """Move a data set in folders below `root`, under other names, and list it."""
    lines = [("sample", "view", "path", "label", "mask", "split")]
    for number, (sample, view) in enumerate((s, v) for s in open_data(data).samples for v in s.views):
        path = root / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(data / view.image, path)
        lines.append((sample.id, view.name, path.name, view.label, "", sample.split))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return root


def config(root, **fields):
    return DataConfig(root=str(root), **fields)


NAMES = ("prepared", "manifest", "folder", "real_iad")  # of the data in `roots`
ALL = (
    "prepared",
    "manifest",
    "pad",
    "manta",
    "single_view",
    "folder",
    "visa",
    "m2ad",
    "real_iad_variety",
    "real_iad",
)


def test_the_readers_are_asked_in_their_order():
    assert READERS.names() == ALL


@pytest.mark.parametrize("name", NAMES)
def test_auto_finds_the_reader_and_says_it_and_its_name_does_the_same(roots, name, caplog):
    caplog.set_level(logging.INFO, "mvead_jax")
    assert detected(roots[name]) == [name]
    found = open_data(roots[name])
    assert f"{roots[name]}: read as {name} (data.reader): " in caplog.text
    caplog.clear()
    assert open_data(roots[name], reader=name).samples == found.samples
    assert "read as" not in caplog.text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", NAMES)
def test_a_named_reader_that_does_not_fit_says_what_it_reads_and_what_is_there(roots, name, there):
    if name == there:
        return
    with pytest.raises(UserError) as error:
        open_data(roots[there], reader=name)
    said = str(error.value)
    layout = READERS.load(name).layout
    assert f"data.root {roots[there]}: data.reader={name} reads {layout}, which is not there" in said
    assert f"it looks like {there}; take another reader, auto, or another root" in said


def test_a_reader_of_no_such_name_gets_the_nearest(roots):
    with pytest.raises(UserError, match=r"config data.reader='real-iad': .*did you mean 'real_iad'"):
        open_data(roots["real_iad"], reader="real-iad")


def test_what_no_reader_knows_gets_all_layouts(tmp_path):
    (tmp_path / "x/pictures").mkdir(parents=True)
    for name in ("auto", "folder"):
        with pytest.raises(UserError, match="x: ") as error:
            open_data(tmp_path / "x", reader=name)
        words = "no reader knows what lies there" if name == "auto" else "no other reader knows it either"
        assert words in str(error.value)
    for reader in NAMES:
        with pytest.raises(UserError, match=f"own_data.md.*: .*{reader}: "):
            open_data(tmp_path / "x")


def test_data_that_two_readers_know_is_noted_with_the_other(roots, tmp_path):
    root = shutil.copytree(roots["folder"], tmp_path / "both")
    shutil.copytree(roots["manifest"], root, dirs_exist_ok=True)
    assert detected(root) == ["manifest", "folder"]
    note = f"{root}: could be read as folder too; if that is meant, name it by data.reader"
    assert note in open_data(root).notes
    assert note not in open_data(root, reader="manifest").notes
    assert len(open_data(root, reader="folder")) == len(open_data(roots["folder"]))


def test_options_of_a_reader_are_its_own(roots, tmp_path):
    root = shutil.copytree(roots["real_iad"], tmp_path / "data")
    (root / "realiad_jsons").rename(root / "realiad_jsons_sv")
    for given in ({"lists": "realiad_jsons_sv"}, {"options": ("lists=realiad_jsons_sv",)}):
        assert len(open_configured(config(root, **given))) == 4
    options = reader_options("real_iad", config(root, lists="a", options=("lists = b",)))
    assert dataclasses.asdict(options) == {"lists": "b", "images": ""}
    assert dataclasses.asdict(reader_options("folder", config(root, lists="a"))) == {}
    for given, words in (
        ("list=x", "real_iad has no such option, did you mean 'lists'[?] it has lists, images"),
        ("lists", "write <option>=<value>"),
        ("=x", "write <option>=<value>"),
    ):
        with pytest.raises(UserError, match=f"config data.options='{given}': {words}"):
            open_configured(config(root, options=(given,)))
    with pytest.raises(UserError, match="folder has no such option, it has none"):
        open_configured(config(roots["folder"], options=("lists=x",)))


@pytest.mark.parametrize("reader", ["auto", "real_iad"])
def test_lists_and_images_of_any_name_are_found_where_the_config_names_them(roots, tmp_path, reader):
    root = shutil.copytree(roots["real_iad"], tmp_path / "data")
    (root / "realiad_jsons").rename(root / "my lists")
    (root / "realiad_64").rename(root / "my images")
    with pytest.raises(UserError, match="no (other )?reader knows"):
        open_data(root, reader=reader)
    assert len(open_data(root, reader=reader, lists="my lists", images="my images")) == 4
    with pytest.raises(
        UserError, match="no list <category>.json in any of .*; name its folder by data.lists"
    ):
        open_data(root, reader=reader, lists="no lists")


def test_a_root_that_is_not_there_or_empty_names_the_fix(tmp_path):
    with pytest.raises(UserError, match="data.root is empty; set --config.data.root="):
        open_data("")
    with pytest.raises(UserError, match=f"data.root {tmp_path}/none: no such folder"):
        open_data(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/x: no such folder"):
        open_data(tmp_path / "file/x")
    with pytest.raises(UserError, match="no reader knows"):
        open_data(tmp_path / "file")
    with pytest.raises(UserError, match="embedded null|null character"):
        open_data("a\0b")


# Words for the protocol.


def test_the_words_say_which_list_of_real_iad_was_read(roots, tmp_path):
    words = source_words(config(roots["real_iad"]), ("C1", "C2"))
    assert words == {
        "reader": "real_iad",
        "lists": "realiad_jsons",
        "list_views": "list of all views (C1, C2)",
    }
    sv = write_realiad(tmp_path / "sv", categories=("cap",), views=1, size=16, lists="realiad_jsons_sv")
    own = config(sv, lists="realiad_jsons_sv")
    index = open_configured(own)
    assert source_words(own, index.views)["list_views"] == "single-view list (C1)"
    noisy = config(roots["real_iad"], lists="realiad_jsons_fuiad_0.1")
    assert source_words(noisy, ("C1", "C2"))["list_views"] == (
        "list of all views (C1, C2), noisy training of share 0.1"
    )
    assert "lists: realiad_jsons; list of all views (C1, C2, C3, C4, C5)" in as_text(
        check_data(roots["real_iad"])
    )


def test_the_words_of_data_without_lists_say_so_and_prepared_data_remembers_them(roots, tmp_path):
    assert source_words(config(roots["folder"]), ("side", "top")) == {
        "reader": "folder",
        "lists": "none: folder",
        "list_views": "all views: side, top",
    }
    assert source_words(config(roots["manifest"]), ("top",))["lists"] == "none: manifest"
    prepare(roots["folder"], tmp_path / "prepared")
    words = source_words(config(tmp_path / "prepared"), ("side", "top"))
    assert (words["reader"], words["lists"]) == ("prepared", "none: folder")
    assert source_words(config(roots["prepared"]), ("C1",))["lists"] == "realiad_jsons"


def test_the_words_of_data_that_is_not_at_hand_are_unknown_and_no_error(tmp_path):
    words = source_words(config(tmp_path / "gone"), ("top",))
    assert set(words.values()) == {"unknown: the data set is not at hand"}
    assert words.keys() == {"reader", "lists", "list_views"}


# Readers of others.


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    suffix: str = ".png"

    def __post_init__(self):
        if not self.suffix.startswith("."):
            raise UserError(f"suffix {self.suffix!r}: begin it with a dot")


class ToyReader:
    """Every image of a flat folder is a sample; toy.txt says that it is one."""

    layout = "toy.txt beside images"
    options = ToyOptions

    def detect(self, root):
        return (root / "toy.txt").is_file()

    def read(self, root, categories, options, incomplete):
        names = sorted(path.name for path in root.glob(f"*{options.suffix}"))
        samples = [Sample(name, "toy", "train", (View("top", name, 0),)) for name in names]
        return Listing(root, samples, ["a note"], [] if names else ["no image; put one there"])

    def check(self, samples, options):
        return [f"toys: {len(samples)}"]

    def words(self, root, options, views):
        return {"lists": "none: toy", "list_views": "one"}


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A data set of a reader that an installed package brings."""
    module = type(sys)("toy_package")
    module.READER = ToyReader()
    monkeypatch.setitem(sys.modules, "toy_package", module)
    point = EntryPoint("toy", "toy_package:READER", "mvead_jax.readers")
    others = registry.entry_points
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: [point] if group == "mvead_jax.readers" else others(group=group),
    )
    folder = write_folders(tmp_path / "own", {"top": (".png", (16, 16))}, train=6)
    root = tmp_path / "toys"
    root.mkdir()
    for number, path in enumerate(sorted(folder.glob("train/*/*/*.png"))):
        shutil.copy(path, root / f"{number}.png")
    (root / "toy.txt").write_text("toy")
    return root


def test_a_reader_of_an_installed_package_is_found_and_named_as_the_others(toy):
    assert READERS.names() == (*ALL, "toy")
    assert (detected(toy), reader_of(config(toy))) == (["toy"], "toy")
    index = open_data(toy)
    assert (len(index), index.categories, index.notes) == (6, ("toy",), ("a note",))
    assert open_data(toy, reader="toy").samples == index.samples
    found = check_data(toy)
    assert (found.problems, found.notes[:2]) == ([], ["a note", "toys: 6"])
    assert [note.split(":")[1] for note in found.notes[2:]] == [" no test samples"]
    with pytest.raises(DataProblems, match="no image; put one there"):
        open_data(toy, options=["suffix=.jpg"])
    with pytest.raises(UserError, match="suffix 'jpg': begin it with a dot"):
        open_data(toy, options=["suffix=jpg"])


# Home folders, and names that systems spell in two ways.


def test_the_root_may_begin_with_the_home_folder(roots, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(roots["folder"].parent))
    assert data_root("~/folder") == roots["folder"]
    assert open_data("~/folder").samples == open_data(roots["folder"]).samples
    assert load_index("~/real_iad") == load_index(roots["real_iad"])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(roots["folder"], tmp_path / "~")
    assert len(open_data("./~")) == len(open_data(roots["folder"]))
    with pytest.raises(UserError, match="no home folder of '~nobody-of-this-name'; write the path in full"):
        open_data("~nobody-of-this-name/x")


@pytest.mark.parametrize(("typed", "on_disk"), [("ä", "a\u0308"), ("a\u0308", "ä")], ids=["NFC", "NFD"])
def test_the_root_and_categories_are_found_in_either_spelling(roots, tmp_path, typed, on_disk):
    shutil.copytree(roots["folder"], tmp_path / f"T{on_disk}/K{on_disk}")
    index = open_data(tmp_path / f"T{typed}", [f"K{typed}"])
    assert index.categories == ("Kä",)
    assert open_data(tmp_path / f"T{typed}/K{typed}").categories == ("Kä",)


def test_a_category_of_real_iad_is_found_in_either_spelling(roots, tmp_path):
    root = shutil.copytree(roots["real_iad"], tmp_path / "data")
    name = "ka\u0308ppi"
    (root / "realiad_64/cap").rename(root / f"realiad_64/{name}")
    edit_list(root, "cap", lambda content: content["meta"].update(prefix="käppi/"))
    edit_list(root, "cap", lambda c: [e.update(category="käppi") for e in c["train"] + c["test"]])
    (root / "realiad_jsons/cap.json").rename(root / f"realiad_jsons/{name}.json")
    index = open_data(root, ["käppi"])
    assert index.categories == ("käppi",)
    assert all((root / view.image).is_file() for sample in index.samples for view in sample.views)


def test_nothing_to_learn_from_is_not_said_after_its_cause(roots, tmp_path):
    root = shutil.copytree(roots["manifest"], tmp_path / "listed")
    text = (root / "manifest.csv").read_text()
    (root / "manifest.csv").write_text(text.replace(",train", ",training"))
    with pytest.raises(DataProblems) as error:
        open_data(root)
    assert all("split 'training'; write train or test" in problem for problem in error.value.problems)
    folder = shutil.copytree(roots["folder"], tmp_path / "own")
    for path in (folder / "train/good").rglob("*.png"):
        path.rename(path.with_suffix(".gif"))
    assert all("no image (" in problem for problem in read_data(config(folder)).problems)
    assert len(read_data(config(folder)).problems) == 2
