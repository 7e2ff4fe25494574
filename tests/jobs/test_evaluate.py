"""Maps on disk compared with masks under protocols: right figures, streaming, hostile folders."""

import csv
import json
import shutil

import numpy as np
import pytest
from fake_realiad import edit_list, write_realiad
from fake_scores import scored_sample
from PIL import Image
from sklearn import metrics as sklearn_metrics

from mvead_jax.config.io import override, to_dict
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.data.realiad import load_index
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.evaluation.metrics import LEVELS
from mvead_jax.evaluation.regions import aupro
from mvead_jax.evaluation.score_files import ScoreFiles, read_images, read_maps, read_replicates
from mvead_jax.jobs import scores_folder
from mvead_jax.jobs.evaluate import evaluate
from mvead_jax.jobs.evaluate_again import evaluate_again
from mvead_jax.methods.mvead.config import MveadConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import write_json

SIZE = 40
WORDS = {"method": "drawn", "scored": "test split"}


def config_for(root, **changes):
    config = MveadConfig(
        data=DataConfig(root=str(root), image_size=SIZE), backbone=BackboneConfig(name="efficientnet-lite0")
    )
    return override(config, {"eval.bootstrap": "100", **changes})


def drawn_scores(index, folder, seed=0):
    """A scores folder of random maps that are higher where there is a mask."""
    files, random = ScoreFiles(folder), np.random.default_rng(seed)
    for category in index.categories:
        found = []
        for sample in index.select(category=category).samples:
            maps = np.full((len(index.views), 5, 5), np.nan, np.float32)
            for at, name in enumerate(index.views):
                for view in sample.views:
                    if view.name == name:
                        maps[at] = random.gamma(3, 1, (5, 5))
                        if view.mask:
                            mask = np.asarray(Image.open(index.root / view.mask).resize((5, 5)), np.float32)
                            maps[at] += mask / 50
            found.append(scored_sample(sample, index.views, maps))
        files.add(category, found, [None] * len(found))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data"), size=SIZE, normal=4, defective=4, views=3)


@pytest.fixture(scope="module")
def index(root):
    return load_index(root).select(split="test")


@pytest.fixture(scope="module")
def run(root, index, tmp_path_factory):
    """A workdir as train.py and score.py leave it, but for models."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = config_for(root)
    write_json(workdir / "config.json", to_dict(config))
    drawn_scores(index, workdir / "scores")
    evaluate(workdir / "scores", index, WORDS, config, ["mvad", "official", "dinomaly"])
    return workdir


def metrics(workdir, name=None):
    return json.loads((workdir / "scores" / (f"metrics_{name}.json" if name else "metrics.json")).read_text())


def regions(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def masks_of(index, category):
    def mask(view):
        return np.asarray(Image.open(index.root / view.mask)) > 127 if view.mask else normal

    normal = np.zeros((SIZE, SIZE), bool)
    samples = index.select(category=category).samples
    return np.stack([mask(view) for sample in samples for view in sample.views])


def test_pixel_metrics_are_scikit_learns_on_the_enlarged_maps(run, index):
    for name, smoothing in ((None, "gaussian:4"), ("official", "none")):
        for category, levels in metrics(run, name)["categories"].items():
            masks = masks_of(index, category)
            maps = enlarge(read_maps(run / "scores", category, 24), SIZE, SIZE, smoothing=smoothing)
            own = levels["pixel"]
            expected = sklearn_metrics.roc_auc_score(masks.ravel(), maps.ravel())
            assert own["auroc"] == pytest.approx(expected, abs=1e-9)
            expected = sklearn_metrics.average_precision_score(masks.ravel(), maps.ravel())
            assert own["ap"] == pytest.approx(expected, abs=1e-9)
            assert own["aupro"] == pytest.approx(aupro(maps, masks), abs=1e-9)
            assert own["error"] == dict.fromkeys(LEVELS["pixel"], 0)
            assert (own["images"], own["left_out"], own["pixels"]) == (24, 0, 24 * SIZE * SIZE)


def test_every_region_is_listed_with_its_picture_its_place_and_its_scores(run, index):
    for name in ("", "_official"):
        listed = regions(run / f"scores/regions{name}.csv")
        header = "category,sample,view,area,x,y,width,height,largest,mean,found"
        assert ",".join(listed[0]) == header
        views = {(one.category, one.id, view.name): view for one in index.samples for view in one.views}
        found = {(line["category"], line["sample"], line["view"]): line for line in listed}
        assert found.keys() == {key for key, view in views.items() if view.mask}
        smoothing = "none" if name else "gaussian:4"
        for key, line in found.items():
            ys, xs = np.nonzero(np.asarray(Image.open(index.root / views[key].mask)) > 127)
            corner = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert [int(line[word]) for word in ("x", "y", "width", "height")] == corner
            assert int(line["area"]) == len(xs)
            own = [line for line in read_images(run / "scores") if line.category == key[0]]
            at = [(one.category, one.sample, one.view) for one in own].index(key)
            whole = read_maps(run / "scores", key[0], 24)[at : at + 1]
            scores = enlarge(whole, SIZE, SIZE, smoothing=smoothing)[0][ys, xs]
            assert float(line["largest"]) == pytest.approx(scores.max(), rel=1e-6)
            assert float(line["mean"]) == pytest.approx(scores.mean(), rel=1e-5)
            levels = metrics(run, name[1:] or None)["categories"][key[0]]
            assert float(line["found"]) == pytest.approx(
                np.mean(scores >= levels["pixel"]["f1_max_threshold"]), abs=1e-6
            )


def test_sample_and_image_scores_follow_the_protocol(run):
    lines = [line for line in read_images(run / "scores") if line.category == "cap"]
    labels = [line.label for line in lines]
    maps = read_maps(run / "scores", "cap", 24)
    smooth = enlarge(maps, 256, 256, crop=0.875, smoothing="gaussian5").reshape(24, -1)
    expected = {
        None: [line.score for line in lines],
        "official": enlarge(maps, SIZE, SIZE).max((1, 2)),
        "mvad": enlarge(maps, 256, 256, smoothing="gaussian:4").max((1, 2)),
        "dinomaly": np.sort(smooth, 1)[:, -655:].mean(1),
    }
    for name, scores in expected.items():
        own = metrics(run, name)["categories"]["cap"]
        assert own["image"]["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9)
        pooled, truth = (np.reshape(one, (8, 3)).max(1) for one in (scores, labels))
        assert own["sample"]["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, pooled), abs=1e-9)


def test_a_mean_over_views_is_another_sample_score(run, index, root, tmp_path):
    shutil.copytree(run / "scores", tmp_path / "scores")
    config = config_for(root, **{"eval.protocol": "custom", "eval.sample_score": "mean"})
    found = evaluate(tmp_path / "scores", index, WORDS, config)
    lines = [line for line in read_images(run / "scores") if line.category == "cap"]
    scores, labels = np.reshape([[line.score, line.label] for line in lines], (8, 3, 2)).transpose(2, 0, 1)
    expected = sklearn_metrics.roc_auc_score(labels.max(1), scores.mean(1))
    assert found["categories"]["cap"]["sample"]["auroc"] == pytest.approx(expected, abs=1e-9)


def test_every_file_names_its_protocol_and_the_intervals_hold_the_value(run):
    for name in (None, "mvad", "official", "dinomaly"):
        found = metrics(run, name)
        assert found["protocol"]["evaluation"].startswith(f"{name or 'mvead'}: ")
        assert "100 resamples, seed 0" in found["protocol"]["intervals"]
        for levels in (*found["categories"].values(), found["mean"]):
            for level, names in LEVELS.items():
                for metric in names:
                    low, high = levels[level]["interval"][metric]
                    assert 0 <= low <= high <= 1
                    if metric == "auroc":
                        assert low - 1e-9 <= levels[level][metric] <= high + 1e-9
    replicates = read_replicates(run / "scores", metrics(run))
    assert {own.shape for own in replicates.values()} == {(2, 100)}


def test_evaluating_again_gives_the_same_bytes_without_model_or_backbone(run, monkeypatch):
    def files():
        paths = [path for path in (run / "scores").iterdir() if path.is_file() and path.name != ".lock"]
        return {path: path.read_bytes() for path in paths}

    before = files()
    for name in ("inputs.load_method_backbone", "inputs.split_features", "workdir.Job"):
        monkeypatch.setattr(f"mvead_jax.jobs.{name}", None)
    found = evaluate_again(run, protocols=["mvad"])
    assert found["protocol"]["method"] == "drawn"
    assert before == files()


def test_evaluating_again_reads_the_lists_that_were_scored(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    shutil.move(tmp_path / "data/realiad_jsons", tmp_path / "data/others")
    edit_list(tmp_path / "data", "cap", lambda content: content["test"].pop(0), lists="others")
    index = load_index(tmp_path / "data", lists="others", incomplete="keep").select(split="test")
    shutil.copytree(run, tmp_path / "run")
    drawn_scores(index, tmp_path / "run/scores")
    words = {**WORDS, "lists": "others", "incomplete_samples": "keep"}
    config = config_for(tmp_path / "data")
    expected = evaluate(tmp_path / "run/scores", index, words, config)["categories"]
    overrides = {"data.root": str(tmp_path / "data")}
    assert evaluate_again(tmp_path / "run", overrides=overrides)["categories"] == expected


def test_custom_beside_the_runs_own_protocol_takes_the_fields_and_nothing_else_does(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = (run / "scores/metrics.json").read_bytes()
    evaluate_again(tmp_path / "run", overrides={"eval.size": "20"}, protocols=["custom", "mvead"])
    assert (tmp_path / "run/scores/metrics.json").read_bytes() == before
    beside, own = metrics(tmp_path / "run", "mvead"), metrics(run)
    assert beside["categories"] == own["categories"]
    assert beside["protocol"] == own["protocol"]
    custom = metrics(tmp_path / "run", "custom")["categories"]["cap"]["pixel"]
    assert custom["pixels"] == 24 * 20 * 20


def test_maps_are_enlarged_a_few_at_a_time(run, index, root, tmp_path, monkeypatch):
    shutil.copytree(run / "scores", tmp_path / "scores")
    sizes = []

    def watched(maps, *arguments, **options):
        sizes.append(len(maps))
        return enlarge(maps, *arguments, **options)

    monkeypatch.setattr("mvead_jax.jobs.evaluate.enlarge", watched)
    monkeypatch.setattr("mvead_jax.jobs.evaluate._PIXELS", 4 * SIZE * SIZE)
    evaluate(tmp_path / "scores", index, WORDS, config_for(root))
    assert max(sizes) == 4
    before = metrics(run)["categories"]
    after = json.loads((tmp_path / "scores/metrics.json").read_text())["categories"]
    assert before == after


def test_views_without_a_mask_are_left_out_of_pixels_and_counted(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")

    def without_masks(content):
        for entry in content["test"][12:14]:  # all views of the sample that show its defect
            entry.update(mask_path=None)

    edit_list(tmp_path / "data", "cap", without_masks)
    index = load_index(tmp_path / "data", ["cap"]).select(split="test")
    drawn_scores(index, tmp_path / "scores")
    found = evaluate(tmp_path / "scores", index, WORDS, config_for(tmp_path / "data"), ["mvad"])
    pixel = found["categories"]["cap"]["pixel"]
    assert (pixel["images"], pixel["left_out"], pixel["defective_without_mask"]) == (22, 2, 2)
    own = found["categories"]["cap"]
    assert [(own[level]["count"], own[level]["defective"]) for level in ("image", "sample")] == [
        (24, 8),
        (8, 4),
    ]
    by_mask = json.loads((tmp_path / "scores/metrics_mvad.json").read_text())
    own = by_mask["categories"]["cap"]  # the sample is not normal: nobody knows
    assert [(own[level]["count"], own[level]["defective"]) for level in ("image", "sample")] == [
        (22, 6),
        (7, 3),
    ]
    left = [line for line in read_images(tmp_path / "scores") if line.sample == "cap_0009_NG_HS"]
    assert [line.label for line in left] == [1, 1, 0]
    listed = {(line["sample"], line["view"]) for line in regions(tmp_path / "scores/regions.csv")}
    masked = {(one.id, view.name) for one in index.samples for view in one.views if view.mask}
    assert listed == masked


def test_a_defect_that_vanishes_at_the_evaluation_size_is_counted_and_changes_mvads_label(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    index = load_index(tmp_path / "data", ["cap"]).select(split="test")
    speck = np.zeros((SIZE, SIZE), np.uint8)
    speck[3, 3] = 90
    masked = [view for sample in index.samples for view in sample.views if view.mask]
    Image.fromarray(speck).save(tmp_path / "data" / masked[0].mask.replace("\\", "/"))
    drawn_scores(index, tmp_path / "scores")
    evaluate(tmp_path / "scores", index, WORDS, config_for(tmp_path / "data"), ["mvad", "dinomaly"])
    by_mask, by_list = (
        json.loads((tmp_path / f"scores/metrics_{name}.json").read_text())["categories"]["cap"]
        for name in ("mvad", "dinomaly")
    )
    assert by_mask["pixel"]["vanished_masks"] == 1
    assert by_mask["image"]["defective"] == by_list["image"]["defective"] - 1 == len(masked) - 1


def test_scores_beyond_float16_stay_finite_in_the_maps_and_are_said(index, tmp_path, caplog):
    sample = index.samples[0]
    maps = np.full((len(index.views), 2, 2), 1e6, np.float32)
    ScoreFiles(tmp_path).add(sample.category, [scored_sample(sample, index.views, maps)], [None])
    assert "beyond 65504" in caplog.text
    assert (read_maps(tmp_path, sample.category, len(sample.views)) == np.float16(65504)).all()
    assert {line.score for line in read_images(tmp_path)} == {np.float32(1e6)}


# What users do wrong.


def test_a_scoring_that_did_not_finish_is_not_evaluated(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/scores/metrics.json").unlink()
    with pytest.raises(UserError, match="metrics.json: no such file; expected the scores of a finished"):
        evaluate_again(tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "protocols", "message"),
    [
        ({"seed": "1"}, [], "config.seed: fixed by the scoring"),
        ({"data.lists": "realiad_jsons_sv"}, [], "config.data.lists: fixed by the scoring"),
        ({"data.incomplete": "keep"}, [], "config.data.incomplete: fixed by the scoring"),
        ({"score.weight": "2"}, [], "config.score.weight: fixed by the scoring"),
        ({"eval.size": "99"}, [], "eval.size='99': read only by eval.protocol=custom"),
        ({}, ["mvat"], "protocol 'mvat': no such protocol"),
        ({"data.root": "/none"}, [], "/none: no such folder"),
    ],
)
def test_what_evaluating_can_not_do_is_one_line(run, overrides, protocols, message):
    with pytest.raises(UserError, match=message) as error:
        evaluate_again(run, overrides=overrides, protocols=protocols)
    assert "\n" not in str(error.value)


def test_another_data_set_under_the_scores_is_refused(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    edit_list(tmp_path / "data", "cap", lambda content: content["test"][12].update(anomaly_class="OK"))
    with pytest.raises(UserError, match=r"cap_\d+_NG_HS C1 has another image or label in the test lists"):
        evaluate_again(run, overrides={"data.root": str(tmp_path / "data")})
    edit_list(tmp_path / "data", "bolt", lambda content: content.update(test=content["test"][3:]))
    with pytest.raises(UserError, match=r"bolt_\d+_OK C1 is not in the test lists"):
        evaluate_again(run, overrides={"data.root": str(tmp_path / "data")})


def test_damaged_files_are_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    maps = tmp_path / "run/scores/maps/cap.npz"
    whole = maps.read_bytes()
    maps.write_bytes(whole[:200])
    with pytest.raises(UserError, match="cap.npz: changed since it was written; score again"):
        evaluate_again(tmp_path / "run")
    path = tmp_path / "run/scores/metrics.json"  # one of a version before seals
    sealed = json.loads(path.read_text())
    path.write_text(json.dumps({key: sealed[key] for key in sealed if key not in ("files", "seal")}))
    with pytest.raises(UserError, match="cap.npz: not written by score.py"):
        evaluate_again(tmp_path / "run")
    np.savez(maps, maps=np.zeros((3, 5, 5), np.float16))
    with pytest.raises(UserError, match=r"cap.npz: \(3, 5, 5\) does not fit the 24 lines"):
        evaluate_again(tmp_path / "run")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (5, "nan", "line 3: score 'nan'"),
        (5, "inf", "line 3: score 'inf'"),
        (4, "7", "line 3: label '7'"),
        (2, "C1", "line 3: bolt/bolt_0005_OK/C1 a second time"),
    ],
)
def test_a_line_that_no_scoring_writes_is_named(run, tmp_path, column, value, message):
    shutil.copytree(run / "scores", tmp_path / "scores")
    path = tmp_path / "scores/images.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[2][column] = value
    path.write_text("\n".join(map(",".join, rows)))
    with pytest.raises(UserError, match=f"images.csv: {message}; score again"):
        read_images(tmp_path / "scores")


def test_images_csv_without_a_column_is_not_score_pys(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/scores/images.csv"
    path.write_text("\n".join(",".join(line.split(",")[:4]) for line in path.read_text().splitlines()))
    with pytest.raises(UserError, match="images.csv: changed since it was written; score again"):
        evaluate_again(tmp_path / "run")
    with pytest.raises(UserError, match="images.csv: not written by score.py"):
        read_images(tmp_path / "run/scores")


# A scores folder whose scoring was killed.


def begun(folder, scored="test split", categories=("bolt", "cap")):
    scores_folder.begin(folder, scored, categories, decides=False)
    (folder / "metrics.json").unlink(missing_ok=True)


def test_an_unfinished_folder_tells_what_it_was_to_hold(tmp_path, index):
    begun(tmp_path / "scores", "/parts", ["cap", "../x"])
    assert scores_folder.check_output(tmp_path / "scores", "/parts") == ["cap"]
    with pytest.raises(UserError, match="scores: holds the scores of /parts; name another folder"):
        scores_folder.check_output(tmp_path / "scores", "test split")
    (tmp_path / "scores/samples.csv").unlink()  # killed before the first list
    assert scores_folder.check_output(tmp_path / "scores", "/parts") == ["cap"]
    (tmp_path / "scores/unfinished.json").write_text("[]")
    with pytest.raises(UserError, match=r"unfinished.json: not written by score.py; name a new folder"):
        scores_folder.check_output(tmp_path / "scores", "/parts")


def test_beginning_again_removes_all_that_an_earlier_scoring_left(run, index, tmp_path):
    folder = shutil.copytree(run / "scores", tmp_path / "scores")
    (folder / "metrics.json").unlink()  # as a version before unfinished.json left it
    earlier = scores_folder.check_output(folder, "test split")
    assert earlier == ["bolt", "cap"]
    begun(folder, categories=earlier)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}
    assert left == {"unfinished.json", "samples.csv", "images.csv", "environment.json", "command.json"}
    assert read_images(folder) == []
