"""A config from a file, the command line or JSON, and back.

A config file is a Python file with `get_config() -> Config`; its docstring gives the command, the cost and
the figure to expect. `configs/x.py:argument` calls `get_config("argument")`. YAML and TOML: texts.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import runpy
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mvead_jax.config.named import locate
from mvead_jax.config.schema import Config
from mvead_jax.config.texts import SUFFIXES, read_text_config
from mvead_jax.config.validation import checked, nearest
from mvead_jax.methods.registry import METHODS
from mvead_jax.runtime.errors import UserError


def load_config(spec: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Return the config `spec` with `overrides` applied.

    A config is one of the program's own by name ("realiad", "folder:patchcore"), or a file: "configs/x.py",
    "configs/x.py:argument", "x.yaml", "x.toml".

    Raises:
      UserError: no such file, no get_config, unknown key, or a value of the wrong type.
    """
    return override(_started_from(spec, ()), overrides or {})


def _started_from(spec: str, before: tuple[Path, ...]) -> Config:
    """Return the config of a spec; before: the files that start from it, one from the next."""
    path, argument = locate(spec)
    if path.suffix not in SUFFIXES:
        return _of_python(spec, path, argument)
    if argument:
        raise UserError(f"--config {spec}: a {path.suffix} file takes nothing after a colon")
    if path.resolve() in before:
        raise UserError(f"--config {path}: starts from itself; name another config in its field `config`")
    start, values = read_text_config(path)
    config = _started_from(start, (*before, path.resolve()))
    try:
        return override(config, dict(flatten(values)))
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def _of_python(spec: str, file: Path, argument: str) -> Config:
    """Return the config that a Python file makes."""
    path = spec.partition(":")[0]
    arguments = [argument] if argument else []
    try:
        make = runpy.run_path(str(file)).get("get_config")
        if make is None:
            raise UserError(f"--config {path}: the file defines no get_config()")
        try:
            inspect.signature(make).bind(*arguments)
        except TypeError as error:
            raise UserError(
                f"--config {spec}: {error}; the file's docstring says what follows the colon"
            ) from None
        config = make(*arguments)
    except UserError as error:
        raise (
            error if str(error).startswith(("--config", path)) else UserError(f"--config {spec}: {error}")
        ) from None
    except Exception as error:  # whatever the file does
        raise UserError(
            f"--config {path}: {type(error).__name__}: {error}; a config is Python that defines get_config()"
        ) from error
    if not isinstance(config, Config):
        raise UserError(f"--config {path}: get_config() returned {type(config).__name__}, not a Config")
    return config


def config_of(method: str, **fields: Any) -> Config:
    """Return the config of a method by name, with some fields set.

    Raises:
      UserError: no such method.
    """
    return METHODS.load(method)(method=method, **fields)


def split_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Return `{"seed": "3", "data.root": "x"}` for `["--config.seed=3", "--config.data.root", "x"]`.

    Raises:
      UserError: an argument that is no override, or one without a value.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            raise UserError(
                f"unknown argument {name!r}: config fields are set by --config.<section>.<field>=<value>"
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{name}: no value; write {name}=<value>")
            value = rest.pop(0)
        found[name.removeprefix("--config.")] = value
    return found


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return a copy of `config` with dotted fields set: from text, in which lists are comma-separated, or from values.

    Another method comes first, with its own defaults in the sections that are its own.
    """
    if "method" in overrides:
        config = with_method(config, checked(str, overrides["method"], "method"))
    for key, value in overrides.items():
        if key != "method":
            config = _replace(config, key.split("."), key, value)
    return config


def with_method(config: Config, method: str) -> Config:
    """Return the config of another method; sections that both methods have in the same form stay as they are.

    Raises:
      UserError: no such method.
    """
    if method == config.method:
        return config
    new = METHODS.load(method)
    hints = typing.get_type_hints(new)
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    kept = {
        name: value
        for name, value in own.items()
        if name in hints and (not dataclasses.is_dataclass(value) or type(value) is hints[name])
    }
    return new(**{**kept, "method": method})


def to_dict(config: Config) -> dict[str, Any]:
    """Return plain JSON types; the inverse of `from_dict`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Return the config that `to_dict` wrote to the file `where`.

    Raises:
      UserError: an unknown method or field, or a value of the wrong type.
    """
    method = values.get("method") if isinstance(values, Mapping) else None
    if not isinstance(method, str):
        raise UserError(f"{where}: not a config: it names no method")
    try:
        return _from_dict(METHODS.load(method), values, where)
    except UserError as error:
        raise (error if str(error).startswith(where) else UserError(f"{where}: {error}")) from None


def differences(a: Config, b: Config) -> list[str]:
    """Return the fields in which two configs differ, as "data.root: 'x' is now 'y'"."""
    flat_a, flat_b = dict(flatten(to_dict(a))), dict(flatten(to_dict(b)))
    keys = dict.fromkeys([*flat_a, *flat_b])
    return [
        f"{key}: {flat_a.get(key)!r} is now {flat_b.get(key)!r}"
        for key in keys
        if flat_a.get(key) != flat_b.get(key)
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("section.field", value) of nested dicts."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _replace(node: Any, path: list[str], key: str, given: Any) -> Any:
    hints = typing.get_type_hints(type(node))
    name, rest = path[0], path[1:]
    if name not in hints:
        raise UserError(_unknown(node, hints, name, key, key[: len(key) - len(".".join(path))]))
    if dataclasses.is_dataclass(hints[name]):
        if not rest:
            fields = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(hints[name]))
            raise UserError(f"config key {key!r} is a section; set one of its fields: {fields}")
        value = _replace(getattr(node, name), rest, key, given)
    elif rest:
        raise UserError(f"unknown config key {key!r}: {key.removesuffix('.' + '.'.join(rest))} is a value")
    else:
        value = (
            _parse(hints[name], given, key) if isinstance(given, str) else checked(hints[name], given, key)
        )
    return dataclasses.replace(node, **{name: value})


def _unknown(node: Any, hints: Mapping[str, Any], name: str, key: str, prefix: str) -> str:
    """What is said of a key that a section, or the config itself, does not have."""
    if isinstance(node, Config) and (owners := _methods_with(name)):
        have = "has it" if len(owners) == 1 else "have it"
        return f"unknown config key {key!r}: method {node.method} has none; {', '.join(owners)} {have}"
    sections = [section for section, kind in hints.items() if dataclasses.is_dataclass(kind)]
    inside = [f"{one}.{name}" for one in sections if name in typing.get_type_hints(hints[one])]
    if inside:
        return f"unknown config key {key!r}; did you mean {' or '.join(inside)}?"
    known = [prefix + other for other in hints]
    return f"unknown config key {key!r}{nearest(prefix + name, known)}; known: {', '.join(known)}"


def _methods_with(section: str) -> list[str]:
    """The methods whose config has a section of that name."""
    return [name for name in METHODS.names() if section in typing.get_type_hints(METHODS.load(name))]


def _parse(kind: Any, text: str, key: str) -> Any:
    """`text` as a value of type `kind`: str, int, float, bool, Literal of str, or a tuple of one of them."""
    if typing.get_origin(kind) is tuple:
        own = typing.get_args(kind)[0]
        return tuple(_parse(own, part.strip(), key) for part in text.split(",") if part.strip())
    if typing.get_origin(kind) is Literal:
        return checked(kind, text, key)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        expected = "true or false" if kind is bool else kind.__name__
        raise UserError(f"config {key}={text!r}: expected {expected}") from None


def _from_dict(kind: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: config {prefix.rstrip('.') or 'file'} is not an object")
    for name in values:
        if name not in hints:
            raise UserError(f"{where}: unknown config key {prefix + name!r}{nearest(name, hints)}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _from_dict(hint, value, where, f"{prefix}{name}.")
        else:
            arguments[name] = checked(hint, value, f"{prefix}{name}")
    return kind(**arguments)
