import dataclasses
import runpy
from pathlib import Path

import pytest

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.io import differences, from_dict, load_config, override, split_overrides, to_dict
from mvead_jax.config.schema import Config, DataConfig, ScoreConfig
from mvead_jax.methods.mvead.config import FusionConfig, MveadConfig
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError


def test_overrides_take_the_type_of_their_field():
    config = override(
        MveadConfig(),
        split_overrides(
            ["--config.data.categories=usb, tape", "--config.seed", "3", "--config.bank.per_view=false"]
        ),
    )
    assert config.data.categories == ("usb", "tape")
    assert config.seed == 3
    assert config.bank.per_view is False


def test_an_empty_list_clears_the_field():
    config = MveadConfig(data=DataConfig(categories=("usb",)))
    assert override(config, {"data.categories": ""}).data.categories == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.image_sise", "3", "did you mean 'data.image_size'"),
        ("dta.root", "x", "did you mean 'data'"),
        ("data", "x", "is a section"),
        ("seed.x", "1", "seed is a value"),
        ("seed", "abc", "expected int"),
        ("seed", "-1", "must be at least 0"),
        ("data.image_size", "2.5", "expected int"),
        ("data.image_size", "0", "at least 1"),
        ("bank.per_view", "maybe", "expected true or false"),
        ("bank.share", "0", "above 0 and at most 1"),
        ("bank.share", "nan", "must be a finite number, above 0 and at most 1"),
        ("train.learning_rate", "inf", "must be a finite number, at least 0"),
        ("bank.projection", "-1", "must be at least 0"),
        ("setting", "singel", "did you mean 'single'"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key_and_the_fix(key, value, message):
    with pytest.raises(UserError, match=message) as error:
        override(MveadConfig(), {key: value})
    assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_that_are_no_overrides_are_refused():
    with pytest.raises(UserError, match="unknown argument '--seed'"):
        split_overrides(["--seed=3"])
    with pytest.raises(UserError, match="no value"):
        split_overrides(["--config.seed"])


def test_a_config_survives_its_json_form():
    config = override(MveadConfig(), {"data.categories": "a,b", "setting": "multi", "backbone.block": "3"})
    assert from_dict(to_dict(config), "config.json") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"rot": "x"}}, r"run/config.json: unknown config key 'data.rot'; did you mean 'root'"),
        ({"seed": "x"}, r"config seed='x': expected int"),
        ({"bank": {"share": 2.0}}, r"config bank.share=2.0: must be above 0 and at most 1"),
        ({"bank": []}, r"run/config.json: config bank is not an object"),
        ({"method": "mvaed"}, r"config method='mvaed'.* did you mean 'mvad'"),
        ({"method": None}, r"run/config.json: not a config: it names no method"),
    ],
)
def test_a_config_file_of_another_version_is_refused_by_name(values, message):
    with pytest.raises(UserError, match=message) as error:
        from_dict({"method": "mvead"} | values, "run/config.json")
    assert "\n" not in str(error.value)


def test_another_method_keeps_the_sections_that_it_has_too_and_brings_its_own_defaults():
    config = override(
        MveadConfig(bank=BankConfig(share=0.5), fusion=FusionConfig(heads=3)),
        {"bank.kind": "coreset", "seed": "4", "method": "patchcore", "score.search": "bfloat16"},
    )
    bank = BankConfig(kind="coreset", share=0.5)
    assert config == PatchCoreConfig(seed=4, bank=bank, score=BankScoreConfig(search="bfloat16"))
    back = override(config, {"method": "mvead"})
    assert back == MveadConfig(seed=4, bank=bank, score=config.score)


def test_a_section_that_another_method_has_is_told_with_the_methods_that_have_it():
    with pytest.raises(UserError, match=r"'fusion.heads': method patchcore has none; mvead has it") as error:
        override(PatchCoreConfig(), {"fusion.heads": "2"})
    assert "\n" not in str(error.value)


def test_a_config_of_another_class_than_its_methods_is_refused():
    with pytest.raises(UserError, match="its config is a MveadConfig, not a PatchCoreConfig"):
        PatchCoreConfig(method="mvead")
    with pytest.raises(UserError, match="expected a section BankScoreConfig"):
        PatchCoreConfig(score=ScoreConfig())
    with pytest.raises(UserError, match="config method='': there is none of that name"):
        PatchCoreConfig(method="")
    with pytest.raises(TypeError, match="abstract"):
        Config()


def test_mvead_of_one_view_or_without_fusion_is_patchcore_with_the_same_bank_and_scores():
    config = MveadConfig(seed=2, bank=BankConfig(kind="kmeans"), score=BankScoreConfig("all"))
    assert config.for_views(2) is config
    assert config.for_views(1) == PatchCoreConfig(seed=2, bank=config.bank, score=config.score)


def test_differences_name_field_and_both_values():
    assert differences(MveadConfig(), dataclasses.replace(MveadConfig(), seed=4)) == ["seed: 0 is now 4"]


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_file_builds_and_says_how_to_run_it(path):
    config = load_config(str(path))
    assert isinstance(config, Config)
    assert f"--config {path}" in path.read_text().split('"""')[1]


def test_an_argument_that_a_config_file_does_not_take_is_refused():
    with pytest.raises(
        UserError, match=r"realiad.py:foo: too many positional arguments; the file's docstring"
    ):
        load_config("configs/realiad.py:foo")


def test_a_missing_config_file_names_the_nearest():
    with pytest.raises(UserError, match=r"no such file; did you mean 'configs/realiad.py'"):
        load_config("configs/realiat.py")


def test_a_config_that_is_no_config_and_a_key_without_its_section_are_named(tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n\nthese are notes")
    with pytest.raises(UserError, match="notes.md: SyntaxError.*a config is Python"):
        load_config(str(tmp_path / "notes.md"))
    with pytest.raises(UserError, match="unknown config key 'categories'; did you mean data.categories"):
        override(MveadConfig(), {"categories": "usb"})


def test_every_variant_of_the_study_differs_from_the_others():
    study = runpy.run_path("configs/study.py")
    variants = [load_config(f"configs/study.py:{name}") for name in study["VARIANTS"]]
    assert len(set(variants)) == len(variants)
    with pytest.raises(UserError, match="no such variant; choose mvead, patchcore"):
        load_config("configs/study.py:gat")
