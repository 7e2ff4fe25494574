import dataclasses

import pytest

from mvead_jax.config.schema import EvalConfig
from mvead_jax.evaluation.protocols import NAMES, OWN, EvaluationProtocol, digest, resolve
from mvead_jax.runtime.errors import UserError

SOURCES = {
    "mvead": "MVEAD's scores and labels; pixel metrics by decision D11",
    "mvad": "ADer / MVAD's public evaluator",
    "mvad-released": "MVAD's released code, as its log counts",
    "official": "Real-IAD's official evaluation (adeval)",
    "dinomaly": "Dinomaly's public evaluator; the sample score is ours",
    "multiflow-released": "Multi-Flow's released code, its last evaluation",
}
# name: size, crop, mask_resize, mask_threshold, smoothing, image_score, sample_score, image_label, unmasked,
# score_limit, clamp_maps, sample_label, strips, f1_steps.
EXACT = ("images", 0, 0)
TABLE = {
    "mvead": (
        224,
        1.0,
        "bilinear",
        127,
        "gaussian:4",
        "patch",
        "max",
        "list",
        "unknown",
        None,
        False,
        *EXACT,
    ),
    "mvad": (256, 1.0, "bilinear", 127, "gaussian:4", "max", "max", "mask", "unknown", None, False, *EXACT),
    "mvad-released": (
        *(256, 1.0, "bilinear", 127, "gaussian:4", "max", "max", "mask", "unknown", None, False),
        *("list", 50, 20),
    ),
    "official": (OWN, 1.0, "bilinear", 127, "none", "max", "max", "mask", "normal", None, False, *EXACT),
    "dinomaly": (
        256,
        0.875,
        "nearest",
        0,
        "gaussian5",
        "top1",
        "max",
        "list",
        "unknown",
        None,
        False,
        *EXACT,
    ),
    "multiflow-released": (
        256,
        1.0,
        "nearest",
        254,
        "none",
        "patch",
        "mean",
        "list",
        "unknown",
        5.0,
        True,
        "images",
        10000,
        0,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_named_protocols_are_those_of_the_table(name):
    expected = EvaluationProtocol(name, SOURCES[name], *TABLE[name])
    assert resolve(name, EvalConfig(), 224) == expected
    assert dataclasses.astuple(expected)[2:] == TABLE[name]  # every field is written there


def test_a_custom_protocol_of_default_fields_is_mvead_by_another_name():
    own, custom = (resolve(name, EvalConfig(), 224) for name in ("mvead", "custom"))
    assert dataclasses.replace(custom, name=own.name, source=own.source) == own


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_says_all_that_it_sets(name):
    words = resolve(name, EvalConfig(), 224).words()
    assert words["evaluation"].startswith(f"{name}: ")
    assert all(words.values())
    assert ("strips" in words["pixel_metrics"]) == name.endswith("-released")
    assert "middle 0.875" in words["pixel_metrics"] or name != "dinomaly"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("mvat", {}, "protocol 'mvat': no such protocol; choose from mvead"),
        ("mvead", {"size": "512"}, "eval.size='512': read only by eval.protocol=custom"),
        ("custom", {"size": "big"}, "eval.size='big': expected input, mask, or a number"),
        ("custom", {"size": "0"}, "eval.size='0'"),
        ("custom", {"crop": 0.0}, "eval.crop=0: must be above 0"),
        ("custom", {"crop": 0.5, "size": "mask"}, "eval.size=mask compares whole masks"),
        ("custom", {"mask_threshold": 255}, "eval.mask_threshold=255: must be 0 to 254"),
        ("custom", {"smoothing": "gauss"}, "eval.smoothing='gauss': expected none"),
        ("custom", {"smoothing": "gaussian:nan"}, "eval.smoothing='gaussian:nan'"),
    ],
)
def test_a_wrong_field_is_one_line_that_names_it(name, fields, message):
    config = EvalConfig(**fields, protocol="custom" if name == "custom" else "mvead")
    with pytest.raises(UserError, match=message) as error:
        resolve(name, config, 224)
    assert "\n" not in str(error.value)


def test_custom_fields_may_stand_beside_a_named_protocol_if_custom_is_asked_for():
    config = EvalConfig(size="99")
    assert resolve("custom", config, 224, ["custom"]).size == 99
    assert resolve("mvead", config, 224, ["custom"]) == resolve("mvead", EvalConfig(), 224)


def test_the_digest_tells_protocols_and_resamples_apart():
    config = EvalConfig()
    own = resolve("mvead", config, 224)
    others = {
        digest(own, config),
        digest(own, EvalConfig(seed=1)),
        digest(resolve("mvead", config, 256), config),
        digest(resolve("mvad", config, 224), config),
    }
    assert len(others) == 4
