"""data/csv_list.py: a CSV of images."""

import csv
import shutil

import pytest
from own_data import CAMERAS, write_folders

from mvead_jax.data.readers import data_folder, detected, open_data
from mvead_jax.jobs.model_facts import training_summary
from mvead_jax.jobs.provenance import training_words
from mvead_jax.runtime.errors import DataProblems, UserError

HEADER = ["sample", "view", "path", "label", "mask", "split"]


@pytest.fixture
def root(tmp_path):
    """The images of the folder layout in other places, and a manifest that says what they are."""
    folders = open_data(write_folders(tmp_path / "folders"))
    root = tmp_path / "мои данные"
    lines = []
    for number, (sample, view) in enumerate((s, v) for s in folders.samples for v in s.views):
        place = f"bilder/{number} ü{(folders.root / view.image).suffix}"
        copy(folders.root / view.image, root / place)
        mask = ""
        if view.mask:
            mask = f"masks/{number}.png"
            copy(folders.root / view.mask, root / mask)
        lines.append([sample.id, view.name, place, str(view.label), mask, sample.split])
    write(root, lines)
    return root


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write(root, lines, header=HEADER, name="manifest.csv", **options):
    with (root / name).open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        csv.writer(file, **options).writerows([header, *lines])


def read(root):
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def facts(index):
    return [
        (one.id, one.split, one.label, [(view.name, view.label, bool(view.mask)) for view in one.views])
        for one in index.samples
    ]


def test_a_manifest_says_the_same_as_the_folders(root, tmp_path):
    index = open_data(root)
    assert detected(root) == ["manifest"]
    assert index.categories == ("мои данные",)
    assert index.views == tuple(CAMERAS)
    assert facts(index) == facts(open_data(tmp_path / "folders"))
    assert all((index.root / view.image).is_file() for one in index.samples for view in one.views)


def test_the_file_may_be_the_root_and_may_come_from_a_spreadsheet(root):
    expected = facts(open_data(root))
    lines = [[one[0], one[1], one[2].replace("/", "\\"), *one[3:]] for one in read(root)]
    write(root, lines, name="list.csv", delimiter=";", encoding="utf-8-sig")
    (root / "manifest.csv").unlink()
    index = open_data(root / "list.csv")
    assert facts(index) == expected
    assert data_folder(root / "list.csv") == data_folder(root) == index.root == root


def test_categories_and_what_is_known_of_a_part_are_columns(root):
    lines = [
        [*one[:3], "" if one[5] == "test" else one[3], "", one[5], kind, str(int("Kratzer" in one[0]))]
        for one in read(root)
        for kind in ["a" if one[0].endswith(("0", "1")) else "b"]
    ]
    write(root, lines, [*HEADER, "category", "sample_label"])
    index = open_data(root)
    assert index.categories == ("a", "b")
    for sample in index.select(split="test").samples:
        assert sample.label == int("Kratzer" in sample.id)
        assert {view.label for view in sample.views} == {None}
    assert open_data(root, ["b"]).categories == ("b",)
    with pytest.raises(UserError, match="unknown category 'c'"):
        open_data(root, ["c"])


def test_training_parts_called_defective_are_said_and_counted_though_no_picture_is(root):
    lines = [
        [one[0].replace("good/", "part "), *one[1:3], "", "", one[5], str(int(one[0] == "good/teil 00"))]
        for one in read(root)
    ]
    write(root, lines, [*HEADER, "sample_label"])
    index = open_data(root)
    assert any("1 training samples are labelled defective, none of their views is" in n for n in index.notes)
    facts = training_summary(index.select(split="train"))
    assert facts["views_labelled_defective"] == 0
    assert training_words([facts, facts]).endswith(
        "; 2 more samples are labelled defective, no image of them is"
    )


def test_all_problems_come_at_once_with_their_lines(root, tmp_path):
    lines = read(root)
    (tmp_path / "out.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    changes = {
        0: (2, "none.png"),
        1: (2, "../folders/x.png"),
        2: (2, "/etc/passwd"),
        3: (3, "defective"),
        4: (5, "validation"),
        5: (1, "a/b"),
        6: (4, "link.png"),
        7: (0, ""),
    }
    for at, (column, value) in changes.items():
        lines[at][column] = value
    lines[10] = lines[9]
    lines.append(["x"])
    write(root, lines)
    with pytest.raises(DataProblems) as caught:
        open_data(root)
    found = caught.value.problems
    for expected in (
        "line 2: path 'none.png' no such file",
        "line 3: path '../folders/x.png' leaves the image folder",
        "line 4: path '/etc/passwd' is absolute",
        "line 5: label 'defective'; write 0, 1",
        "line 6: split 'validation'; write train or test",
        "line 7: view 'a/b' begins with a dot, or holds a slash",
        "line 8: mask 'link.png' is a link out of",
        "line 9: sample '' is empty",
        f"line {len(lines) + 1}: has another number of values",
        f"lines 11, 12: all list {lines[9][2]}; keep one",
        f"lines 11, 12: test sample {lines[9][0]} has view {lines[9][1]} twice; keep one",
    ):
        assert sum(expected in one for one in found) == 1, expected
    assert len(found) == 11


def test_a_part_called_good_and_defective_is_a_problem(root):
    lines = [[*one, "0"] for one in read(root)]
    write(root, lines, [*HEADER, "sample_label"])
    with pytest.raises(DataProblems) as caught:
        open_data(root)
    assert len(caught.value.problems) == 3
    assert all("is called both good and defective" in one for one in caught.value.problems)


def test_a_missing_view_and_an_empty_train_split_are_problems(root):
    lines = read(root)
    write(root, lines[1:])
    with pytest.raises(DataProblems, match="has no Kamera links; leave such samples out"):
        open_data(root)
    assert len(open_data(root, incomplete="drop")) == 11
    write(root, [one for one in lines if one[5] == "test"])
    with pytest.raises(DataProblems, match="no line of split train"):
        open_data(root)


def test_a_file_that_is_no_manifest_is_told_what_one_is(root):
    path = root / "manifest.csv"
    write(root, [], ["sample", "view", "file"])
    with pytest.raises(UserError, match="no column path, label, mask, split; the first line is sample,view"):
        open_data(root)
    write(root, [], [*HEADER, "path"])
    with pytest.raises(UserError, match="column path twice"):
        open_data(root)
    path.write_bytes("sample;Prüfling".encode("latin-1"))
    with pytest.raises(UserError, match='not UTF-8; save it as "CSV UTF-8"'):
        open_data(root)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no column sample"):
        open_data(root)
    path.write_text(",".join(HEADER) + '\n"a"b,c,d,0,,train\n')
    with pytest.raises(UserError, match="not a CSV"):
        open_data(root)


def test_columns_nobody_asked_for_are_said(root):
    write(root, [[*one, "x"] for one in read(root)], [*HEADER, "operator"])
    assert "column 'operator' is passed over" in open_data(root).notes[0]
