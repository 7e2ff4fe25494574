"""The job before training: the geometry of every category, given or estimated, into the workdir."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.backbones.base import Backbone, load_backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.digests import file_digests, file_states, image_paths
from mvead_jax.data.mirroring import open_view
from mvead_jax.data.readers import data_folder
from mvead_jax.data.records import DatasetIndex
from mvead_jax.features.cache import cache_folder
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.geometry.estimate import estimate_from_matches
from mvead_jax.geometry.feature_matching import match_features
from mvead_jax.geometry.known_cameras import read_cameras
from mvead_jax.geometry.masks import EpipolarKeys, all_keys, category_keys
from mvead_jax.geometry.matching import CategoryMatches, joined, match_category, picture_sizes
from mvead_jax.geometry.nominal import parse_nominal
from mvead_jax.geometry.outlines import category_outlines
from mvead_jax.methods.base import PATCHES
from mvead_jax.report.lines import draw_lines
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import sha256
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.paths import expanded

log = logging.getLogger("mvead_jax")


def geometry_path(workdir: Path, category: str) -> Path:
    """Where a workdir keeps the geometry of a category."""
    return workdir / "geometry" / f"{category}.json"


@computing()
def estimate_geometries(config: Config, index: DatasetIndex, workdir: Path) -> dict[str, CategoryGeometry]:
    """Geometry of every category of the index, into the workdir.

    Given cameras (geometry.cameras) win; else an estimate from the same images and settings is kept, and
    so is a file that someone put there; else one is made. Beside the file lies images/<category>.png:
    epipolar lines on one sample.

    Raises:
      UserError: bad cameras, an estimate of other views, images that cannot be read, or (geometry.matches
        is not sift) a backbone that cannot be loaded.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; name a folder")
    found, backbone = {}, None
    for category in index.categories:
        path = geometry_path(workdir, category)
        part = index.select(category=category, split="train")
        origin = geometry_origin(config) | {"pictures": _digest_of(part, cache_folder(config, workdir))}
        if path.exists() and not config.geometry.cameras:
            kept = _kept(path, part.views)
            if kept.origin in (None, origin):
                log.info("geometry %s: from %s", category, path)
                found[category] = kept
                continue
            log.info("geometry %s: %s is of other images or settings; made again", category, path)
        if len(part.views) == 1:
            geometry = CategoryGeometry(part.views, picture_sizes(part), {})
            log.info("geometry %s: one view, which sees no other", category)
        elif config.geometry.cameras and (flipped := _flipped(part)):
            raise UserError(
                f"geometry.cameras={config.geometry.cameras}: its cameras are those of the images as they are stored, "
                f"and data.mirrored flips {', '.join(flipped)} of {category}; take one of the two"
            )
        elif config.geometry.cameras:
            geometry = given_geometry(config, category, part)
            origin = {"cameras": sha256(cameras_path(config))}
        else:
            nominal = parse_nominal(config.geometry.nominal)
            if nominal.elevation and len(nominal.elevation) != len(part.views):
                log.warning(
                    "geometry %s: geometry.nominal names %d views, the data has %d: no rig is fitted, "
                    "each pair stands for itself",
                    *(category, len(nominal.elevation), len(part.views)),
                )
            if config.geometry.matches != "sift" and backbone is None:
                backbone = load_backbone(config.backbone, config.data.image_size, (PATCHES,), config.seed)
            matches = _matches(config, part, backbone)
            outlines = category_outlines(part)
            geometry = estimate_from_matches(matches, outlines, nominal, config.seed).geometry
        geometry = dataclasses.replace(geometry, origin=origin)
        complete = [sample for sample in part.samples if len(sample.views) == len(part.views)]
        if complete:
            pictures = [open_view(part, view) for view in complete[0].views]
            draw_lines(geometry, pictures, workdir / "geometry" / "pictures" / f"{category}.png")
        geometry.write(path)  # last: where it is, the image is too
        found[category] = geometry
    return found


def cameras_path(config: Config) -> Path:
    """Return where geometry.cameras lies."""
    return data_folder(config.data.root) / expanded(config.geometry.cameras)


def given_geometry(config: Config, category: str, training: DatasetIndex) -> CategoryGeometry:
    """Return the geometry that geometry.cameras gives the views of a category.

    Raises:
      UserError: cameras that can't be those of its images.
    """
    return read_cameras(cameras_path(config), category, training.views, picture_sizes(training))


def _matches(config: Config, index: DatasetIndex, backbone: Backbone | None) -> CategoryMatches:
    """What geometry.matches asks for; the backbone is needed unless that is sift."""
    most = config.geometry.samples
    if config.geometry.matches == "sift":
        return match_category(index, most)
    at_a_time = backbone.images_at_a_time(config.backbone.batch_size)
    features = match_features(index, backbone, most, at_a_time)
    if config.geometry.matches == "features":
        return features
    return joined(match_category(index, most), features)


def geometry_origin(config: Config) -> dict[str, Any]:
    """JSON of the settings that an estimate depends on, whatever the category."""
    own = config.geometry
    origin: dict[str, Any] = {
        "seed": config.seed,
        "cameras": own.cameras,
        "samples": own.samples,
        "matches": own.matches,
        "nominal": list(own.nominal),
    }
    if own.matches != "sift":
        backbone = config.backbone
        engine = [] if backbone.engine == "xla" else [backbone.engine]
        origin["backbone"] = [
            backbone.name,
            backbone.weights,
            backbone.block,
            config.data.image_size,
            *engine,
        ]
    return origin


def _digest_of(index: DatasetIndex, cache: Path) -> str:
    """Of the names and contents of an index's images."""
    paths = image_paths(index.samples)
    pictures = file_digests(index.root, paths, file_states(index.root, paths), cache)
    files = [list(pair) for pair in zip(paths, pictures, strict=True)]
    files += [[view] for view in _flipped(index)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _flipped(index: DatasetIndex) -> list[str]:
    """The views of which images are flipped when they are loaded."""
    return sorted({view.name for sample in index.samples for view in sample.views if view.mirrored})


def _kept(path: Path, views: tuple[str, ...]) -> CategoryGeometry:
    geometry = read_geometry(path)
    if geometry.views != views:
        raise UserError(
            f"{path}: of views {', '.join(geometry.views)}, the data has {', '.join(views)}; delete it"
        )
    return geometry


def uses_geometry(config: Config) -> bool:
    """Return whether anything in the config asks how the views see each other."""
    return config.requires().geometry != "none" or config.score.uses_lines()


def keys_of(
    config: Config,
    geometries: Mapping[str, CategoryGeometry],
    categories: Sequence[str],
    views: tuple[str, ...],
    image_size: int,
    grid: tuple[int, int],
) -> dict[str, EpipolarKeys]:
    """Return the keys of each category on the axis `views`; every patch of other views without geometry.

    Raises:
      UserError: an untrusted pair, and geometry.on_failure=error.
    """
    place = views, image_size, grid
    return {
        category: category_keys(category, geometries[category], *place, config.geometry)
        if category in geometries
        else all_keys(len(views), grid)
        for category in categories
    }


def format_geometry(geometry: CategoryGeometry, category: str) -> str:
    """A plain table: a line for each pair with its evidence."""
    lines = [f"geometry {category}"]
    if geometry.mirrored is not None:
        names = [view for view, flag in zip(geometry.views, geometry.mirrored, strict=True) if flag]
        lines.append(f"  stored mirrored: {', '.join(names) or 'none'}")
    for (a, b), pair in sorted(geometry.pairs.items()):
        quality = pair.quality
        words = f"  {geometry.views[a]} {geometry.views[b]}  {pair.source:9s} {'ok ' if pair.ok else 'NOT'}"
        if "matches" in quality:
            words += (
                f"  {quality['inliers']:5d} of {quality['matches']:5d} held-out matches"
                f" (by chance {quality['inliers_by_chance']:.0f})"
            )
        lines.append(words + (f"  {quality['reason']}" if quality.get("reason") else ""))
    return "\n".join(lines)
