"""The job that prepares a data set once: files and lists -> whole samples in ArrayRecord, by category.

A category is written into a folder of another name, which takes its own when it is whole. Run again, a
category that is whole and whose files have not changed is not made again; one whose files have changed is.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.csv_list import manifest_of
from mvead_jax.data.digests import read_digests
from mvead_jax.data.file_check import check_files
from mvead_jax.data.inventory import as_markdown, data_report, digests_of
from mvead_jax.data.readers import odd_counts, read_data, reader_of
from mvead_jax.data.records import DatasetIndex, Sample, sort_samples
from mvead_jax.data.safe_paths import respelled
from mvead_jax.data.tfds_realiad.builder import (
    RealIad,
    RealIadConfig,
    bytes_of,
    config_for,
    files_of,
)
from mvead_jax.data.tfds_realiad.layout import (
    Undone,
    builder_folder,
    is_prepared,
    read_unfinished,
    write_unfinished,
)
from mvead_jax.data.tfds_realiad.reading import read_prepared, read_records
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked, write_json, write_text
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.progress import progress

log = logging.getLogger(__name__)

_LEAST_SHARD = 2**17  # an ArrayRecord file has 64 KB blocks at both ends


@dataclass(frozen=True)
class _Job:
    """One category: its part of the index, the reader that found it, and where it goes."""

    category: str
    part: DatasetIndex
    reader: str
    config: RealIadConfig
    folder: Path

    @property
    def undone(self) -> Undone:
        return {"category": self.category, "images": self.config.images, "lists": self.config.lists}

    def is_done(self) -> bool:
        """Return whether it is there, whole, of the files as they are now. It reads them all."""
        if not (self.folder / "metadata.json").is_file():
            return False
        try:
            found = read_prepared(self.folder)
        except UserError:
            return False
        samples = sort_samples(sample for sample, _ in found.samples)
        if (found.lists, found.images, samples) != (self.config.lists, self.config.images, self.part.samples):
            return False
        digests = {path: known for _, place in found.samples for path, known in place.digests.items()}
        return read_digests(self.part.root, list(digests)) == list(digests.values())


def prepare(
    root: Path,
    output: Path,
    categories: Sequence[str] = (),
    *,
    reader: str = DataConfig.reader,
    lists: str = DataConfig.lists,
    images: str = DataConfig.images,
    options: Sequence[str] = (),
    allow_other_counts: bool = False,
) -> list[Path]:
    """Prepare the categories of a data set into `output`, or what is missing of it.

    Args:
      root, categories, reader, lists, images, options: as the fields of DataConfig.
      allow_other_counts: all of a public data set, but in other numbers, is a warning and no error.

    Returns:
      The files of the report on these categories.

    Raises:
      UserError: anything wrong with the arguments or the disk, or other counts.
      DataProblems: everything wrong with the lists or the files, at once.
    """
    output = expanded(output)
    _check_folders(root, output)
    data = DataConfig(
        root=str(root),
        categories=tuple(categories),
        reader=reader,
        lists=lists,
        images=images,
        options=tuple(options),
        incomplete="keep",
    )
    index, found_by = read_data(data).index(), reader_of(data)
    root = index.root
    for note in index.notes:
        log.warning("%s", note)
    check_counts(data, index.samples, allow_other_counts)
    jobs = [_job(output, index, category, found_by, data) for category in index.categories]
    with locked(output):
        for job in jobs:
            for leftover in job.folder.parent.glob("incomplete.*"):  # of a killed run
                shutil.rmtree(leftover, ignore_errors=True)
        missing = [job for job in jobs if not job.is_done()]
        others = [entry for entry in read_unfinished(output) if entry not in [job.undone for job in jobs]]
        try:
            if missing:
                check_files(index.with_samples(sample for job in missing for sample in job.part.samples))
                _announce(missing, len(jobs) - len(missing), root, output)
            else:
                log.info("%s: all %d categories are there", output, len(jobs))
            write_unfinished(output, others + [job.undone for job in missing])
            _write_all(missing, others, output)
        except OSError as error:
            raise UserError(f"{error.filename or output}: {error.strerror or error}") from None
        records = read_records(output, index.categories, lists=lists, images=images, incomplete="keep")
        prepared = records.index()
        return _write_report(data_report(prepared, lists, digests_of(prepared)), output, jobs)


def check_counts(data: DataConfig, samples: Sequence[Sample], allowed: bool) -> None:
    """Say which counts of a public data set, all of whose categories are there, are not the published ones.

    Raises:
      UserError: there are some, and that is not allowed.
    """
    if not (wrong := odd_counts(data, samples)):
        return
    message = f"{data.root}: {'; '.join(wrong)}"
    if not allowed:
        raise UserError(f"{message}; complete the data set, or go on by --allow-other-counts")
    log.warning("%s", message)


def _write_report(report: Mapping[str, Any], output: Path, jobs: Sequence[_Job]) -> list[Path]:
    name = "+".join(sorted({job.config.name for job in jobs}))
    paths = [output / f"report-{name}.md", output / f"report-{name}.json"]
    write_text(paths[0], as_markdown(report))
    write_json(paths[1], report)
    return paths


def _write_all(missing: Sequence[_Job], others: Sequence[Undone], output: Path) -> None:
    if not missing:
        return
    with progress("preparing", sum(len(job.part) for job in missing), "samples") as bar:
        for number, job in enumerate(missing, 1):
            _write(job, output, bar.advance)
            write_unfinished(output, [*others, *(left.undone for left in missing[number:])])


def _job(output: Path, index: DatasetIndex, category: str, reader: str, data: DataConfig) -> _Job:
    part = index.select(category=category)
    config = config_for(data.images or _image_folder(part), data.lists, data.options)
    return _Job(category, part, reader, config, builder_folder(output, category, config.name))


def _image_folder(part: DatasetIndex) -> str:
    """Return the folder of images below the root that the reader found; empty if that is the root itself."""
    first = part.samples[0].views[0].image.split("/")[0]
    return first if first.startswith("realiad_") or first == "explicit_full" else ""


def _check_folders(root: Path, output: Path) -> None:
    root = respelled(expanded(root))
    if not root.is_dir() and not manifest_of(root):
        raise UserError(f"--root {root}: no such folder")
    if is_prepared(root):
        raise UserError(f"--root {root}: is prepared already; name the folder of the images and lists")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a folder")
    if output.resolve() == root.resolve():
        raise UserError(f"--output {output}: is the data set itself; name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from None


def _announce(missing: Sequence[_Job], done: int, root: Path, output: Path) -> None:
    """Say what is about to be written; refuse if the disk is too full."""
    samples = [sample for job in missing for sample in job.part.samples]
    needed = bytes_of(root, samples) + 2 * _LEAST_SHARD * len(missing)
    given_back = sum(_size(job.folder) for job in missing)
    free = shutil.disk_usage(output).free
    if needed > free + given_back:
        raise UserError(
            f"--output {output}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; "
            "make room or name another folder"
        )
    log.info(
        "preparing %d categories: %d samples, %d files, %.1f MB into %s; %d categories are there",
        *(len(missing), len(samples), len(files_of(samples)), needed / 1e6, output, done),
    )


def _write(job: _Job, output: Path, on_sample: Callable[[], None]) -> None:
    """Write one category."""
    if job.folder.exists():  # of other files, or damaged: not to be taken for whole while it is removed
        stale = job.folder.with_name(f"incomplete.old_{job.folder.name}")
        job.folder.rename(stale)
        shutil.rmtree(stale)
    options = {
        "index": job.part,
        "reader": job.reader,
        "on_sample": on_sample,
        "config": job.config,
        "data_dir": output / job.category,
    }
    # TFDS makes it, and nothing comes into it; the name is one that the next run removes.
    downloads = job.folder.with_name("incomplete.downloads")
    try:
        with _quiet():
            RealIad(**options).download_and_prepare(download_dir=downloads)
    except RuntimeError as error:  # as which ArrayRecord reports that the disk refuses
        raise UserError(f"{job.folder}: {str(error).splitlines()[0]}") from None
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep quiet what TFDS prints, and its warnings of sizes and lists that are not Real-IAD's own."""
    absl = logging.getLogger("absl")
    before = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        absl.setLevel(before)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0
