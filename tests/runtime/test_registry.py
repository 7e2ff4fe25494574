"""Names of a config: read lazily, extended by installed packages, and never silently another thing."""

import sys
from importlib.metadata import EntryPoint

import pytest

from mvead_jax.backbones.registry import REGISTRY
from mvead_jax.runtime import registry
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.registry import Registry

KNOWN = {"dinov2-small": "json", "dinov2-giant": "json:dumps", "resnet18": "no.such.module"}
HINTS = {"dinov2_vits14": "dinov2-small"}


@pytest.fixture
def names(monkeypatch):
    """A registry of "backbone.name", and what installed packages add to it."""
    added = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [one for one in added if one.group == group])
    return Registry("backbone.name", KNOWN, "things", HINTS), added


def test_a_name_stands_for_a_module_or_for_an_attribute_of_one(names):
    import json

    assert names[0].load("dinov2-small") is json
    assert names[0].load("dinov2-giant") is json.dumps
    assert names[0].names() == tuple(KNOWN)


def test_nothing_is_imported_before_it_is_asked_for(names, tmp_path, monkeypatch):
    (tmp_path / "lazily_loaded.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    names[1].append(EntryPoint("later", "lazily_loaded:value", "things"))
    names[0].check("later")
    assert "lazily_loaded" not in sys.modules
    assert names[0].load("later") == 1


def test_installed_packages_add_names_but_replace_none(names):
    for name, value in (("zeta", "math"), ("alpha", "math:pi"), ("dinov2-small", "math")):
        names[1].append(EntryPoint(name, value, "things"))
    names[1].append(EntryPoint("elsewhere", "math", "other things"))
    assert names[0].names() == (*KNOWN, "alpha", "zeta")
    assert names[0].load("dinov2-small").__name__ == "json"
    assert names[0].load("alpha") == pytest.approx(3.14159, abs=1e-5)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("dinov2-smal", "dinov2-small"),
        ("dinov2_vits14", "dinov2-small"),
        ("DINOv2_Giant", "dinov2-giant"),
        ("somebody/resnet18", "resnet18"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_all_names(names, said, meant):
    with pytest.raises(UserError) as caught:
        names[0].load(said)
    message = str(caught.value)
    assert message.startswith(f"config backbone.name={said!r}: ")
    assert f"did you mean {meant!r}?" in message
    assert message.endswith(f"expected one of {', '.join(KNOWN)}")
    assert "\n" not in message


def test_a_name_like_no_other_gets_the_list_alone(names):
    with pytest.raises(UserError, match="there is none of that name, expected one of dinov2-small, "):
        names[0].load("qqq")


def test_a_broken_package_is_named_and_a_broken_module_of_ours_stays_a_bug(names):
    names[1].append(EntryPoint("absent", "no.such.package", "things"))
    names[1].append(EntryPoint("empty", "math:nothing", "things"))
    for name, module in (("absent", r"no\.such\.package"), ("empty", "math")):
        with pytest.raises(UserError, match=f"name='{name}': {module}, which an installed package"):
            names[0].load(name)
    with pytest.raises(ModuleNotFoundError):
        names[0].load("resnet18")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("dinov2_vits14", "dinov2-small"),
        ("dinov2_vitb14", "dinov2-base"),
        ("dinov2_vitl14_lc", "dinov2-large"),
        ("dinov2_vitg14_reg", "dinov2-giant-registers"),
        ("dinov2_vits14_pretrain.pth", "dinov2-small"),
        ("dinov2_vitb14_reg4_pretrain.pth", "dinov2-base-registers"),
        ("facebook/dinov2-with-registers-small", "dinov2-small-registers"),
        ("vit_base_patch14_dinov2.lvd142m", "dinov2-base"),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "dinov2-large-registers"),
        ("dinov2_s", "dinov2-small"),
    ],
)
def test_names_of_other_programs_lead_to_the_backbone_of_the_same_size(said, meant):
    with pytest.raises(UserError, match=f"did you mean {meant!r}"):
        REGISTRY.check(said)
