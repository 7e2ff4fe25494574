"""Where the weights of a backbone are found: a directory, the hub cache, or the hub; in safetensors alone."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

log = logging.getLogger(__name__)

CONFIG, TENSORS = "config.json", "model.safetensors"
INDEX = f"{TENSORS}.index.json"  # of a checkpoint in several files: which key is in which
_HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/[\w.-]+")
_HUB_TIMEOUT = 5.0  # seconds to reach the hub before giving up
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")


# ---- locating


def locate(
    name: str,
    policy: str,
    directory: Path,
    hub: Mapping[str, tuple[str, str]],
    optional: Sequence[str] = (),
) -> Path:
    """Return the directory that holds the weights of a backbone: model.safetensors, or its index and parts.

    Args:
      name: of the backbone.
      policy: "auto" (`<directory>/<name>/`, then the hub cache, then the hub), a directory, or a hub id. A
        text of the form org/name is a hub id unless that directory, or its parent here, exists; everything
        else is a directory.
      directory: where a user keeps weights.
      hub: name -> hub id and revision, a pinned commit or "main", of all backbones of the family.
      optional: further files that are fetched where the hub has them.

    Raises:
      UserError: nothing there; it says which file to put where. Without a network it takes seconds.
    """
    local = expanded(directory) / name
    if policy == "auto":
        return (
            _complete(local, "backbone.weights=auto")
            if local.exists()
            else _from_hub(*hub[name], local, optional)
        )
    path = expanded(policy)
    # A text like weights/dinov2-bsae could be either; a parent that exists makes it a mistyped path.
    if _HUB_ID.fullmatch(policy) and not path.exists() and not path.parent.exists():
        revision = dict(hub.values()).get(policy, "main")
        return _from_hub(policy, revision, local, optional)
    return _complete(path, "backbone.weights")


def _complete(directory: Path, option: str) -> Path:
    """Return the directory itself when it holds weights, else raise a UserError that says what is missing."""
    if directory.is_file():
        if directory.suffix in _PICKLES:
            raise UserError(f"{option}: {_no_pickle(directory.name, directory.parent, directory.parent)}")
        raise UserError(f"{option}: {directory} is a file; give the directory that holds it as {TENSORS}")
    if not directory.is_dir():
        raise UserError(
            f"{option}: there is no directory {directory}; give one that holds {TENSORS}, a hub id such as "
            "facebook/dinov2-base, auto, or random"
        )
    if (directory / TENSORS).is_file() or (directory / INDEX).is_file():
        return directory
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{option}: {directory} lacks {TENSORS} ({_no_pickle(pickles[0], directory, directory)})"
        )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    advice = f"rename {others[0]} if it is that" if others else "put it there"
    raise UserError(f"{option}: {directory} lacks {TENSORS}; {advice}")


def _no_pickle(name: str, folder: Path, target: Path) -> str:
    """Return why a pickle is not read, and the program that converts it."""
    return (
        f"{name} is not read: a pickle may run any program; convert it where torch is installed: "
        'python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load('{folder / name}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w.get('model', w)); "
        f"save_file({{k: v.contiguous() for k, v in w.items()}}, '{target / TENSORS}')\""
    )


def _from_hub(hub_id: str, revision: str, local: Path, optional: Sequence[str]) -> Path:
    """Return the snapshot's directory in the hub cache, downloaded when it is not there yet."""
    import huggingface_hub as hub

    try:
        snapshot = _fetch(hub_id, revision, optional, local_files_only=True)
    except OSError:
        try:
            # One request without retries: a machine without network learns so at once, where
            # hf_hub_download alone tries six times in 23 s. It also resolves a branch to its commit.
            url = hub.hf_hub_url(hub_id, ".gitattributes", revision=revision)
            commit = hub.get_hf_file_metadata(url, timeout=_HUB_TIMEOUT).commit_hash or revision
            log.info("downloading %s at commit %s", hub_id, commit)
            snapshot = _fetch(hub_id, commit, optional)
        except Exception as error:  # whatever HTTP client the hub library uses, it is outside this program
            reason = " ".join(str(error).split())[:160]
            files = " and ".join((*optional, TENSORS))
            raise UserError(
                f"no weights {hub_id}: no directory of that name, nothing in {local} or the hub cache, and "
                f"the hub gave {type(error).__name__} ({reason}); put {files} of revision {revision} into "
                f"{local} and take backbone.weights=auto"
            ) from error
    log.info("%s at commit %s: %s", hub_id, snapshot.name, snapshot)
    return snapshot


def _fetch(hub_id: str, revision: str, optional: Sequence[str], **options: Any) -> Path:
    """Return the directory of a snapshot with the files of a checkpoint, and of `optional` what is there."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    def get(file: str) -> Path:
        return Path(hub.hf_hub_download(hub_id, file, revision=revision, **options))

    for file in optional:
        with suppress(EntryNotFoundError):
            get(file)
    try:
        return get(TENSORS).parent
    except EntryNotFoundError:
        index = get(INDEX)
        for file in sorted(set(_read_index(index).values())):
            get(file)
        return index.parent


# ---- opening


class Files:
    """A checkpoint of one or several safetensors files (the protocol `checkpoint.Tensors`)."""

    def __init__(self, path: Path, held: Mapping[str, Any]):
        self.name, self._held = str(path), held

    def keys(self) -> set[str]:
        return set(self._held)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._held[key].get_slice(key).get_shape())

    def kind(self, key: str) -> str:
        return self._held[key].get_slice(key).get_dtype()

    def read(self, key: str) -> np.ndarray:
        return self._held[key].get_tensor(key)


@contextmanager
def opened(directory: Path) -> Iterator[Files]:
    """Open the checkpoint of a directory: the headers are read, tensors when they are asked for.

    Raises:
      UserError: no such file, a damaged one, or an index that does not describe its files.
    """
    directory = _complete(Path(directory), "weights")
    with ExitStack() as stack:
        if (path := directory / TENSORS).is_file():
            file = _open(path, stack)
            yield Files(path, dict.fromkeys(file.keys(), file))
            return
        path = directory / INDEX
        places = _read_index(path)
        held = {}
        for name in sorted(set(places.values())):
            file = _open(directory / name, stack)
            own = {key for key, place in places.items() if place == name}
            if odd := sorted(own ^ set(file.keys())):
                raise UserError(
                    f"{directory / name}: key {odd[0]} is in one of it and {path.name}, not in both; copy "
                    "all files of the checkpoint again"
                )
            held |= dict.fromkeys(own, file)
        yield Files(path, held)


def _open(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}){_hint(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from error


def _read_index(path: Path) -> dict[str, str]:
    """Return key -> name of the file beside the index that holds it."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not places or not all(
            isinstance(name, str) and Path(name).name == name for name in places.values()
        ):
            raise ValueError("its weight_map does not name files beside it")
        return dict(places)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not the index of a checkpoint ({error}); copy it again") from error


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            return ": it is a git-lfs pointer, fetch the file itself (git lfs pull)"
    return "; the file is damaged or cut short, copy it again"
