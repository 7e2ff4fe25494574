"""Configs as YAML and TOML files, and by name."""

import pytest

from mvead_jax.config.io import load_config
from mvead_jax.config.named import config_names
from mvead_jax.runtime.errors import UserError

YAML = """
config: folder:patchcore
seed: 3
data:
  root: /data/parts
  categories: [lid, box]
  strict: true
geometry: {threshold: 2, nominal: "90:0, 45:0"}
eval.bootstrap: 1e1
"""
TOML = """
base = "folder:patchcore"
seed = 3
[data]
root = "/data/parts"
categories = ["lid", "box"]
strict = true
[geometry]
threshold = 2
nominal = ["90:0", "45:0"]
[eval]
bootstrap = 10
"""


def written(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


def test_yaml_toml_and_the_command_line_make_the_same_config(tmp_path):
    changes = {"seed": "3", "data.root": "/data/parts", "data.categories": "lid,box", "data.strict": "true"}
    changes |= {"geometry.threshold": "2", "geometry.nominal": "90:0,45:0", "eval.bootstrap": "10"}
    expected = load_config("folder:patchcore", changes)
    assert load_config(written(tmp_path, "a.toml", TOML)) == expected
    assert load_config(written(tmp_path, "a.yaml", YAML.replace("1e1", "10"))) == expected
    assert load_config(str(tmp_path / "a.toml"), {"seed": "4"}).seed == 4


def test_a_name_is_the_config_of_that_file_wherever_one_is(tmp_path, monkeypatch):
    expected = {name: load_config(f"configs/{name}.py") for name in config_names()}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "realiad").mkdir()
    assert {name: load_config(name) for name in expected} == expected
    with pytest.raises(UserError, match="realiad.py: no such file; did you mean 'realiad'"):
        load_config("configs/realiad.py")


def test_a_file_may_start_from_the_file_beside_it_and_another_method_has_its_own_sections(tmp_path):
    written(tmp_path, "line.toml", 'config = "folder"\nmethod = "patchcore"\n[score]\nevidence = "all"\n')
    config = load_config(written(tmp_path, "cell.yml", "config: line.toml\nscore.weight: 0.25\n"))
    assert (config.method, config.score.evidence, config.score.weight) == ("patchcore", "all", 0.25)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.yaml",
            "config: folder\ndata: {rot: x}",
            "unknown config key 'data.rot'; did you mean 'data.root'",
        ),
        ("a.yaml", "config: folder\nsed: 3", "unknown config key 'sed'; did you mean 'seed'"),
        ("a.yaml", "config: folder\nseed: true", "config seed=True: expected int"),
        ("a.yaml", "config: folder\nseed:", "config seed=None: expected int"),
        ("a.yaml", "config: folder\ndata:", "config key 'data' is a section"),
        ("a.yaml", "config: folder\ndata: {root: [x]}", r"config data.root=\['x'\]: expected str"),
        ("a.yaml", "config: folder\nseed: 1\nseed: 2", "not YAML in UTF-8 .'seed' stands twice"),
        ("a.yaml", "config: folder\nseed: !!python/name:os.system x", "not YAML in UTF-8"),
        ("a.yaml", "config: [", "not YAML in UTF-8"),
        ("a.yaml", "folder", "expected fields with values"),
        ("a.yaml", "confg: folder", "give one field `config` .*did you mean it by 'confg'"),
        ("a.yaml", "config: folder\nbase: folder", "give one field `config`"),
        (
            "a.yaml",
            "config: foldr",
            "--config foldr: neither a config's name nor a file; did you mean 'folder'",
        ),
        ("a.yaml", "config: a.yaml", "starts from itself"),
        ("a.yaml", "config: folder\nmethod: 3", "config method=3: expected str"),
        ("a.toml", "config = ", "not TOML in UTF-8"),
        ("a.toml", 'config = "folder"\n[data]\nimage_size = 0', "data.image_size=0: must be at least 1"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(written(tmp_path, name, text))
    assert "\n" not in str(error.value)
    assert "--config " in str(error.value)


def test_bytes_that_are_no_text_and_an_argument_are_refused(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="a.toml: not TOML in UTF-8"):
        load_config(str(tmp_path / "a.toml"))
    with pytest.raises(UserError, match="takes nothing after a colon"):
        load_config(f"{tmp_path / 'a.toml'}:patchcore")
