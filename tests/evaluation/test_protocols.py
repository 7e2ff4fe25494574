import dataclasses

import pytest

from mvead_jax.config import EvalConfig
from mvead_jax.errors import UserError
from mvead_jax.evaluation.protocols import NAMES, OWN, digest, resolve


def test_the_named_protocols_are_those_of_the_table_of_public_evaluators():
    found = {name: resolve(name, EvalConfig(), 224) for name in NAMES}
    sizes = {name: one.size for name, one in found.items()}
    assert sizes == {"mvead": 224, "mvad": 256, "official": OWN, "dinomaly": 256, "custom": 224}
    assert {name: one.smoothing for name, one in found.items()} == {
        **dict.fromkeys(("mvead", "mvad", "custom"), "gaussian:4"),
        "official": "none",
        "dinomaly": "gaussian5",
    }
    assert found["mvad"].image_label == "mask"
    assert (found["dinomaly"].image_score, found["dinomaly"].crop) == ("top1", 0.875)
    assert (found["dinomaly"].mask_resize, found["dinomaly"].mask_threshold) == ("nearest", 0)


def test_a_custom_protocol_of_default_fields_is_mvead_by_another_name():
    own, custom = (resolve(name, EvalConfig(), 224) for name in ("mvead", "custom"))
    assert dataclasses.replace(custom, name=own.name, source=own.source) == own


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_says_all_that_it_sets(name):
    words = resolve(name, EvalConfig(), 224).words()
    assert words["evaluation"].startswith(f"{name}: ")
    assert all(words.values())
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
