"""scripts/reproduce.py on a tiny data set: what it runs, finds again, prints and refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import write_realiad
from reproducing import run_reproduce, two_categories

from mvead_jax.comparison import papers
from mvead_jax.comparison.categories_table import OURS, Column, table_of_categories
from mvead_jax.comparison.defect_kinds import kinds_of
from mvead_jax.comparison.paper_tables import Outcome, table3
from mvead_jax.config.io import load_config
from mvead_jax.evaluation.score_files import read_images
from mvead_jax.jobs.reproduce import Run, is_finished
from mvead_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
# Nothing of these tests looks at the size or the training of what is run.
BARE = ("--config.data.image_size=32", "--config.backbone.batch_size=2", "--config.eval.bootstrap=20")
BARE += ("--config.backbone.name=efficientnet-lite0",)
# The images show nothing to match: without this no pair of views is trusted, and MVEAD is PatchCore.
FUSED = "--config.geometry.on_failure=unconstrained"
TINY = (*BARE, FUSED, "--config.train.epochs=1", "--config.train.centers=2")
ONE = (*TINY, "--config.data.categories=usb")
BASE = ("--config", str(ROOT / "configs/realiad.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return two_categories(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def call(root):
    def run(*arguments, tiny=TINY, data=root):
        changes = (
            [*([f"--config.data.root={data}"] if data else []), *tiny] if arguments[0] != "kinds" else []
        )
        if arguments[0] == "fig5":
            changes = [one for one in changes if "centers=" not in one and "backbone.name" not in one]
        return run_reproduce(*arguments, *changes)

    return run


@pytest.fixture(scope="module")
def grid(call, tmp_path_factory):
    """Three rows of table 3, in an order of our own."""
    output = tmp_path_factory.mktemp("runs") / "table3"
    assert call("table3", "--output", output, "--rows", "1", "10", "eam,copy,shared", tiny=ONE) == 0
    return output


def content(output, name):
    return json.loads((output / f"{name}.json").read_text())


def test_table_3_has_ten_rows_with_the_papers_figure_and_ours_where_they_ran(grid):
    rows = content(grid, "table3")["rows"]
    assert [row["paper"]["image_auroc"] for row in rows] == [row.image_auroc for row in papers.ablation()]
    assert [row["row"] for row in rows if row["ours"]["image_auroc"] is not None] == [1, 6, 10]
    for row in (rows[0], rows[5], rows[9]):
        metrics = json.loads(
            (grid / f"{row['fusion']}_{row['pretraining']}_{row['bank']}/scores/metrics.json").read_text()
        )
        assert row["ours"]["image_auroc"] == pytest.approx(100 * metrics["mean"]["image"]["auroc"])
        assert row["ours_minus_paper"] == pytest.approx(
            row["ours"]["image_auroc"] - row["paper"]["image_auroc"]
        )
        assert row["protocol"]["scored_images"].startswith("the highest of its patch")
        assert row["protocol"]["fusion"].startswith(row["fusion"])
    assert rows[9]["paper_minus_its_row_1"] == pytest.approx(3.4)
    assert rows[9]["protocol"]["trusted_pairs"] == "usb 0 of 1"


def test_the_page_marks_the_papers_figures_and_says_what_ours_are_of(grid):
    page = (grid / "table3.md").read_text()
    assert page.isascii()
    assert "image AUROC *" in page
    assert "Columns with * are the papers' figures as printed" in page
    assert "Ours are of other categories than the papers' 30 (usb)" in page
    assert "- input: 32 x 32" in page
    assert "row 1, row 6: full, one for all views" in page
    assert "mcp+reg, 1 epochs" in page


def test_rows_share_features_and_geometry(grid):
    assert len(list(grid.rglob("feature_cache"))) == 1
    a, b = (grid / f"eam_{row}/geometry" for row in ("mcp+reg_per_view", "copy_shared"))
    assert sorted(path.name for path in a.glob("*.json")) == ["usb.json"]
    for path in a.glob("*.json"):
        assert path.read_bytes() == (b / path.name).read_bytes()
    # The lender drew its images when it estimated; the borrower estimated nothing.
    assert (a / "pictures").is_dir()
    assert not (b / "pictures").exists()


def test_finished_rows_are_not_run_again_and_still_stand_in_the_table(grid, call, capsys):
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("scores/*")}
    assert call("table3", "--output", grid, "--rows", "10", tiny=ONE) == 0
    assert before == {path: path.stat().st_mtime_ns for path in grid.rglob("scores/*")}
    assert content(grid, "table3")["rows"][0]["ours"]["image_auroc"] is not None
    assert "# Table 3 of MVEAD" in capsys.readouterr().out


def test_a_row_without_a_trusted_pair_is_called_what_it_is_and_found_again(call, tmp_path):
    excluding = (*ONE, "--config.geometry.on_failure=exclude")
    for _ in range(2):
        assert call("table3", "--output", tmp_path / "runs", "--rows", "10", tiny=excluding) == 0
    protocol = content(tmp_path / "runs", "table3")["rows"][9]["protocol"]
    assert protocol["method"] == "patchcore"
    assert protocol["method_trained"].startswith("patchcore, not mvead: no pair of views is trusted")


def test_an_unscored_row_is_scored_and_not_trained(grid, call, tmp_path):
    shutil.copytree(grid, tmp_path / "runs")
    row = tmp_path / "runs/none_none_shared"
    (row / "scores/metrics.json").unlink()
    state = row / "models/usb/state.safetensors"
    before = state.stat().st_mtime_ns
    assert call("table3", "--output", tmp_path / "runs", "--rows", "1", tiny=ONE) == 0
    assert (row / "scores/metrics.json").exists()
    assert state.stat().st_mtime_ns == before


def test_other_settings_in_the_same_output_are_refused(grid, call):
    with pytest.raises(UserError, match="train.epochs: 1 is now 2.*take another --output"):
        call("table3", "--output", grid, "--rows", "1", tiny=(*ONE, "--config.train.epochs=2"))


def test_a_row_that_fails_is_named_at_the_end_and_the_others_go_on(call, tmp_path, capsys):
    wrong = (*ONE, "--config.geometry.on_failure=error")
    assert call("table3", "--output", tmp_path / "runs", "--rows", "10", "1", tiny=wrong) == 1
    told = capsys.readouterr()
    last = told.err.strip().splitlines()[-1]
    assert last.startswith("error: eam_mcp+reg_per_view: ")
    rows = content(tmp_path / "runs", "table3")["rows"]
    assert rows[0]["ours"]["image_auroc"] is not None
    assert rows[9]["error"]
    assert "- row 10: " in (tmp_path / "runs/table3.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table3", "--rows", "11"], "--rows 11: no such row; choose 1 to 10, or none,none,shared"),
        (["table3", "--config.fusion.kind=eam"], "fusion.kind=eam: table3 sets it by row"),
        (["table1", "--config.setting=multi"], "use --setting"),
        (["table2", "--categories", "usc"], "unknown category 'usc', did you mean 'usb'"),
        (["fig5", "--centers", "1,x"], "--centers 1,x: give whole numbers"),
        (["fig5", "--backbones", ","], "--backbones ',': is empty"),
        (["table3", "--config.data.rot=x"], "unknown config key 'data.rot'"),
    ],
)
def test_a_users_mistake_is_one_line_before_any_work(call, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        call(*arguments[:1], "--output", tmp_path / "runs", *arguments[1:])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_data_that_is_not_there_fails_once_and_not_once_a_row(call, tmp_path):
    with pytest.raises(UserError, match="data.root .*none: no such folder"):
        call("table3", "--output", tmp_path / "runs", data=tmp_path / "none")


def test_tables_1_and_2_share_their_runs_and_grow_by_categories(call, tmp_path):
    output = tmp_path / "runs"
    changes = (*BARE, "--config.method=patchcore")
    assert call("table1", "--output", output, "--setting", "single", "--categories", "usb", tiny=changes) == 0
    assert list(content(output, "table1")["settings"]["single-class"]["categories"]) == ["usb"]
    assert call("table1", "--output", output, tiny=changes) == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("scores/*")}
    assert call("table2", "--output", output, *BASE, tiny=changes) == 0
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("scores/*")}
    for number, level in ((1, "sample"), (2, "image")):
        for setting, folder in (("single-class", "single-usb"), ("multi-class", "multi")):
            found = content(output, f"table{number}")["settings"][setting]
            assert list(found["categories"]) == ["bolt", "usb"]
            metrics = json.loads((output / folder / "scores/metrics.json").read_text())["categories"]["usb"]
            usb = found["categories"]["usb"]
            assert usb["ours"]["ap"] == pytest.approx(100 * metrics[level]["ap"])
            place = papers.Place(level, setting, "usb", "MVEAD", "auroc")
            assert usb["papers"]["MVEAD"]["auroc"] == papers.realiad()[place]
            assert found["categories"]["bolt"]["papers"] == {}
            mean = found["mean"]["auroc"]
            assert mean["categories"] == 1
            assert mean["papers"]["MVEAD"] == usb["papers"]["MVEAD"]["auroc"]
            assert mean["ours"] == usb["ours"]["auroc"]


def test_figure_5_names_the_device_the_seconds_and_the_papers_points(call, tmp_path):
    changes = (*ONE, "--config.fusion.kind=none")
    names = ("--backbones", "efficientnet-lite0", "--centers", "1,2")
    assert call("fig5", "--output", tmp_path / "runs", *names, tiny=changes) == 0
    found = content(tmp_path / "runs", "fig5")
    assert found["devices"] == ["cpu: cpu"]
    assert [row["centers"] for row in found["rows"]] == [2, 1]
    for row in found["rows"]:
        assert row["ours"]["training_seconds"] > 0
        assert row["ours"]["backbone_milliseconds_per_image"] > 0
        assert row["ours"]["resumed"] is False
        assert row["paper"] == {"image_auroc": None, "training_hours_a5000": None}


def test_compare_sets_configs_beside_the_first(call, tmp_path):
    variants = ("patchcore", "evidence_all", "mvead")
    specs = [f"{ROOT / 'configs/study.py'}:{variant}" for variant in variants]
    changes = (*BARE, FUSED, "--config.data.categories=usb", "--config.train.epochs=0")
    assert call("compare", "--output", tmp_path / "study", *specs, tiny=changes) == 0
    first, second, third = content(tmp_path / "study", "compare")["rows"]
    assert [one["name"] for one in (first, second, third)] == [f"study-{variant}" for variant in variants]
    assert first["gains"]["image AUROC"] == 0
    metrics = json.loads((tmp_path / "study/study-evidence_all/scores/metrics.json").read_text())
    gain = 100 * metrics["mean"]["image"]["auroc"] - first["ours"]["image AUROC"]
    assert second["gains"]["image AUROC"] == pytest.approx(gain)
    assert second["protocol"]["patch_score"].endswith("of the highest anywhere")
    # A field of one method is set where there is one.
    assert third["protocol"]["fusion"].startswith("eam")
    assert third["protocol"]["trained"] == "nothing"


def test_compare_over_two_data_sets_gives_the_standard_error_of_the_paired_gains(call, tmp_path):
    made = {"categories": ("usb", "bolt"), "size": 32, "views": 2, "train": 3, "normal": 2, "defective": 2}
    roots = [write_realiad(tmp_path / name, seed=seed, **made) for seed, name in enumerate(("one", "two"), 7)]
    specs = [f"{ROOT / 'configs/study.py'}:{variant}" for variant in ("patchcore", "hull")]
    options = [part for root in roots for part in ("--root", root)]
    assert call("compare", "--output", tmp_path / "study", *options, *specs, tiny=BARE, data=None) == 0
    found = content(tmp_path / "study", "compare")
    first, second = found["rows"]
    assert found["data"] == [root.name for root in roots]
    assert first["cells"] == second["cells"] == 4
    values = {
        name: [
            json.loads((tmp_path / f"study/{root.name}/study-{name}/scores/metrics.json").read_text())
            for root in roots
        ]
        for name in ("patchcore", "hull")
    }
    cells = {
        name: [100 * own["categories"][c]["image"]["auroc"] for own in two for c in ("usb", "bolt")]
        for name, two in values.items()
    }
    gains = np.subtract(cells["hull"], cells["patchcore"])
    assert second["ours"]["image AUROC"] == pytest.approx(np.mean(cells["hull"]))
    assert second["gains"]["image AUROC"] == pytest.approx(gains.mean())
    assert second["standard_errors_of_gains"]["image AUROC"] == pytest.approx(gains.std(ddof=1) / 2)
    assert second["ours"]["seen once"] == pytest.approx(second["ours"]["image AUROC"])  # all are seen once
    assert second["ours"]["seen twice"] is None
    assert second["cost"]["milliseconds_a_sample"] > 0
    assert first["cost"]["times_as_long_as_first"] == 1
    assert second["cost"]["times_as_long_as_first"] > 0
    assert second["cost"]["model_megabytes"] > 0
    assert "+/-" in (tmp_path / "study/compare.md").read_text()

    # Beside another first config the times are measured anew.
    assert call("compare", "--output", tmp_path / "study", *options, *specs[::-1], tiny=BARE, data=None) == 0
    first, second = content(tmp_path / "study", "compare")["rows"]
    assert first["cost"]["times_as_long_as_first"] == 1
    assert second["cost"]["times_as_long_as_first"] != 1

    (tmp_path / "study/sample_times.json").write_text("[]")
    with pytest.raises(UserError, match="sample_times.json: not the times of reproduce.py; delete it"):
        call("compare", "--output", tmp_path / "study", *options, *specs, tiny=BARE, data=None)


def test_compare_refuses_data_sets_of_one_folder_name(call, tmp_path):
    options = ("--root", tmp_path / "a/rig", "--root", tmp_path / "b/rig")
    with pytest.raises(UserError, match="same folder name"):
        call("compare", "--output", tmp_path / "study", *options, "configs/hull.py", tiny=(), data=None)
    with pytest.raises(UserError, match="use --root"):
        call("compare", "--output", tmp_path / "study", *options, "configs/hull.py", tiny=())


def test_compare_refuses_a_field_that_no_config_has(call, tmp_path):
    specs = [f"{ROOT / 'configs/study.py'}:{variant}" for variant in ("patchcore", "evidence")]
    with pytest.raises(UserError, match="'train.epochs': method patchcore has none; mvead"):
        call("compare", "--output", tmp_path / "study", *specs)


def test_two_configs_of_one_name_are_refused(call, tmp_path):
    other = tmp_path / "study.py"
    shutil.copy(ROOT / "configs/study.py", other)
    specs = [f"{ROOT / 'configs/study.py'}:patchcore", f"{other}:patchcore"]
    with pytest.raises(UserError, match="share the folder study-patchcore"):
        call("compare", "--output", tmp_path / "study", *specs, tiny=BARE)


def test_kinds_puts_runs_beside_each_other(grid, call, tmp_path, capsys):
    a, b = grid / "none_none_shared", grid / "eam_mcp+reg_per_view"
    assert call("kinds", "--workdir", a, "--workdir", b, "--output", tmp_path) == 0
    page = capsys.readouterr().out
    assert "eam_mcp+reg_per_view - none_none_shared" in page
    runs = content(tmp_path, "kinds")["runs"]
    expected = kinds_of(read_images(b / "scores"))["mean"]["HS"]
    assert runs["eam_mcp+reg_per_view"]["mean"]["HS"] == {
        measure: {**one, "auroc": pytest.approx(one["auroc"], nan_ok=True) if one["defects"] else None}
        for measure, one in expected.items()
    }
    # The fake's defects show in the first half of the views: in one of two.
    assert expected["seen once"]["defects"] == 2
    assert expected["seen twice"]["defects"] == expected["seen more"]["defects"] == 0


def test_kinds_of_runs_on_other_pictures_are_refused(grid, call, tmp_path):
    shutil.copytree(grid / "none_none_shared", tmp_path / "run")
    path = tmp_path / "run/scores/images.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"images.csv: other images or labels .*\(1, as "):
        call("kinds", "--workdir", grid / "none_none_shared", "--workdir", tmp_path / "run")
    with pytest.raises(UserError, match="images.csv: no such file; run mvead score"):
        call("kinds", "--workdir", tmp_path)


def test_a_run_of_another_config_is_not_finished(grid, root):
    config = load_config(f"{ROOT / 'configs/ablation.py'}:none,none,shared", {"data.root": str(root)})
    assert not is_finished(Run("none_none_shared", config), grid)


def test_without_any_run_the_tables_hold_the_papers_figures_alone():
    table = table3({})
    assert table.text.count(" - |") > 10
    assert "Protocol" not in table.text
    failed = Outcome(error="no weights")
    column = Column(OURS, "mvead", papers.SYSTEMS, {"single": {"single-usb": failed}})
    found = table_of_categories(1, [column]).content["settings"]["single-class"]
    assert found["categories"] == {}
    assert found["mean"]["auroc"]["ours"] is None
    assert found["printed_average"]["MVEAD"]["auroc"] == 96.2
    assert found["runs"]["single-usb"]["error"] == "no weights"
