"""One sample from its seed: part, pose, light, defect, five images and their exact masks."""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mvead_jax.rig import cameras, cogwheel, flange, terminal
from mvead_jax.rig.defects import Defect, Dice, Stain, draw_defect
from mvead_jax.rig.layout import KINDS, MIRRORED, SPLITS, SampleName, entry, image_folder, mask_threshold
from mvead_jax.rig.light import DiffuseLight, Light, draw_light
from mvead_jax.rig.materials import Finish, draw_finish, material_index
from mvead_jax.rig.mesh import Hits, Mesh, Scene
from mvead_jax.rig.parts import Component, Part
from mvead_jax.rig.render import Traced, encode, expose, render_view, shade, trace_view

BUILDERS = {"flange": flange.build, "terminal": terminal.build, "cogwheel": cogwheel.build}
_PART, _DEFECT, _SENSOR = range(3)  # what random numbers are for
_ATTEMPTS, _STUBBORN = 400, 40  # draws of a defect in all, and with the severity that was planned
_SAME = 0.02  # mm that the end of a ray may move without having met something else
_CLEAR = 200.0  # least visibility of a defect, see `_visibility`
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class RenderedSample:
    """Images uint8 [V,h,w,3] and masks bool [V,h,w], as stored (one view mirrored)."""

    images: np.ndarray
    masks: np.ndarray


def _generator(seed: int, name: SampleName, *purpose: int) -> np.random.Generator:
    """Random numbers of one sample for one purpose; no other sample's count or order matters."""
    family = zlib.crc32(name.category.encode())
    key = (family, SPLITS.index(name.split), name.index, *purpose)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def severity(seed: int, name: SampleName) -> float:
    """How clear the defect is, in [0, 1).

    The samples of a kind cover the range evenly (golden-ratio sequence from a random start), so that a small
    test set holds subtle and clear ones alike.
    """
    kind = KINDS.index(name.kind)
    key = (zlib.crc32(name.category.encode()), len(SPLITS), kind)
    start = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).random()
    return float((start + _GOLDEN * (name.index // len(KINDS))) % 1.0)


@cache
def tray() -> Mesh:
    """The mat under the part: a plane at z = 0, fine where shadows fall."""
    coarse = np.array([46.0, 60.0, 90.0, 140.0])
    lines = np.concatenate([-coarse[::-1], np.arange(-38.0, 38.1, 2.0), coarse]).astype(np.float32)
    count = len(lines)
    x, y = (g.ravel() for g in np.meshgrid(lines, lines))
    corner = np.arange(count * count).reshape(count, count)
    a, b = corner[:-1, :-1].ravel(), corner[:-1, 1:].ravel()
    c, d = corner[1:, :-1].ravel(), corner[1:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)]).astype(np.int32)
    vertices = np.stack([x, y, np.zeros_like(x)], axis=1)
    normals = np.broadcast_to(np.float32([0.0, 0.0, 1.0]), vertices.shape)
    material = np.full(len(faces), material_index("mat"), np.int16)
    return Mesh(vertices, normals, faces, material, np.zeros(len(faces), bool))


def draw_pose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3,3] and translation [3] (mm, in the tray's plane) of a part put down by hand."""
    angles = np.deg2rad(rng.uniform(-1.0, 1.0, 3) * (4.0, 0.9, 0.9))
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles), np.sin(angles)
    turn = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    tip = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    lean = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    return turn @ tip @ lean, np.array([*rng.uniform(-1.6, 1.6, 2), 0.0])


@dataclass(frozen=True)
class Station:
    """One part lying under the cameras: x_world = rotation x_part + translation."""

    part: Part
    rotation: np.ndarray
    translation: np.ndarray
    rig: cameras.Rig

    def scene(self, components: dict[str, Component]) -> Scene:
        """Tray (component 0) and components in the world."""
        meshes = [component.mesh for component in components.values()]
        pose = (self.rotation, self.translation)
        return Scene([tray(), *meshes], [(np.eye(3), np.zeros(3))] + [pose] * len(meshes))

    def trace(self, scene: Scene) -> list[Traced]:
        """Hits and directions of every view's pixel centres."""
        return [trace_view(scene, self.rig, view) for view in range(len(cameras.VIEWS))]


@dataclass(frozen=True)
class Seen:
    """What the cameras meet: the scene and its light, hits per view, a stain, and masks bool [V,pixels]."""

    scene: Scene
    baked: DiffuseLight
    traced: list[Traced]
    stain: Stain | None
    masks: np.ndarray


def set_up(name: SampleName, seed: int, size: int) -> tuple[Station, Light, Finish]:
    """The sample's intact part in its pose, its light and its materials."""
    rng = _generator(seed, name, _PART)
    part = BUILDERS[name.category](rng)
    rotation, translation = draw_pose(rng)
    heights = [np.einsum("j,nj->n", rotation[2], c.mesh.vertices).min() for c in part.components.values()]
    translation[2] = -min(heights)
    station = Station(part, rotation, translation, cameras.five_cameras(size))
    return station, draw_light(rng), draw_finish(rng)


def look(name: SampleName, seed: int, station: Station, light: Light, finish: Finish) -> Seen:
    """The sample before the cameras, spoilt if it is a defective one.

    A defect is drawn again until at least one view shows it, at least one does not, and it changes some view
    enough for a person to find it.
    """
    scene = station.scene(station.part.components)
    traced = station.trace(scene)
    nothing = np.zeros((len(traced), station.rig.size**2), bool)
    intact = Seen(scene, DiffuseLight(scene, light), traced, None, nothing)
    if name.kind is None:
        return intact
    level = severity(seed, name)
    for attempt in range(_ATTEMPTS):
        # The samples of a kind take the views in turn, each kind from another one on.
        number, kind = divmod(name.index, len(KINDS))
        view = (number + kind + attempt) % len(cameras.VIEWS)
        rng = _generator(seed, name, _DEFECT, attempt)
        if attempt > _STUBBORN:  # no place for one so large, or none where one so small would show
            level = float(rng.random())
        dice = Dice(rng, level, station.part.defect_scale)
        defect = draw_defect(name.kind, station.part, scene, station.rotation, station.rig, view, dice)
        if defect is None:
            continue
        seen = _spoilt(station, defect, intact, light)
        showing = np.flatnonzero(seen.masks.sum(axis=1) >= mask_threshold(station.rig.size))
        if not 0 < len(showing) < len(cameras.VIEWS):
            continue
        clear = (_visibility(shown, intact, seen, light, finish, station.rig.size) for shown in showing)
        if max(clear) >= _CLEAR:
            return seen
    raise RuntimeError(f"{name}: no place for a {name.kind} in {_ATTEMPTS} attempts")


def _spoilt(station: Station, defect: Defect, intact: Seen, light: Light) -> Seen:
    """What the cameras meet of the defective part."""
    scene = station.scene(defect.components)
    traced = station.trace(scene)
    masks = [
        _mask(intact.scene, before, scene, after, defect.stain)
        for (before, _), (after, _) in zip(intact.traced, traced, strict=True)
    ]
    return Seen(scene, DiffuseLight(scene, light), traced, defect.stain, np.stack(masks))


def _mask(intact: Scene, before: Hits, spoilt: Scene, after: Hits, stain: Stain | None) -> np.ndarray:
    """bool [pixels] of one view: the ray of the pixel's centre meets the defect.

    That is: it meets a face that the defect made, or the part under the stain, or it ends elsewhere than on
    the intact part, because the defect took away or covered what it met.
    """
    was, now = before.face >= 0, after.face >= 0
    mask = was != now
    both = np.flatnonzero(was & now)
    old = intact.interpolate(before.at(both), intact.vertices)
    here = after.at(both)
    new = spoilt.interpolate(here, spoilt.vertices)
    mask[both] = (np.linalg.norm(new - old, axis=1) > _SAME) | spoilt.marked[here.face]
    if stain is not None:
        part = both[spoilt.component[here.face] > 0]
        points = spoilt.interpolate(after.at(part), spoilt.part)
        mask[part] |= stain.coverage(points) > 0.0
    return mask


def _visibility(view: int, intact: Seen, spoilt: Seen, light: Light, finish: Finish, size: int) -> float:
    """How well `view` shows a defect: mean change of its pixels in grey levels (0..255), times the root of
    their number in an image of 256 x 256."""
    where = np.flatnonzero(spoilt.masks[view])
    shown = []
    for seen in (intact, spoilt):
        hits, directions = seen.traced[view]
        color = shade(seen.scene, hits.at(where), directions[where], light, seen.baked, finish, seen.stain)
        shown.append(encode(color).astype(np.int32))
    change = np.abs(shown[1] - shown[0]).max(axis=1).mean()
    return float(change * np.sqrt(len(where)) * 256 / size)


def render_sample(name: SampleName, seed: int, size: int) -> RenderedSample:
    """Render one sample; a function of (name, seed, size) alone."""
    station, light, finish = set_up(name, seed, size)
    seen = look(name, seed, station, light, finish)
    images = []
    for view, traced in enumerate(seen.traced):
        picture = render_view(seen.scene, station.rig, view, traced, light, seen.baked, finish, seen.stain)
        images.append(expose(picture, _generator(seed, name, _SENSOR, view)))
    images, masks = np.stack(images), seen.masks.reshape(-1, size, size)
    flipped = cameras.VIEWS.index(MIRRORED[name.category])
    images[flipped] = images[flipped, :, ::-1].copy()
    masks[flipped] = masks[flipped, :, ::-1].copy()
    return RenderedSample(images, masks)


def write_sample(root: str, name: SampleName, seed: int, size: int) -> dict:
    """Render one sample and write its files; what the journal keeps of it.

    Returns {"sample": category/folder, "defective": [bool per view], "files": {path under root: SHA-256}}.
    """
    rendered = render_sample(name, seed, size)
    defective = [bool(mask.sum() >= mask_threshold(size)) for mask in rendered.masks]
    folder = f"{image_folder(size)}/{name.category}"
    (Path(root) / folder / name.folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for view, (image, mask) in enumerate(zip(rendered.images, rendered.masks, strict=True)):
        listed = entry(name, view, defective[view])
        # 4:4:4: half-resolution colour would smear a thin scratch or a stain's rim.
        contents = [(listed["image_path"], _encoded(image, "JPEG", quality=95, subsampling=0))]
        if defective[view]:
            contents.append((listed["mask_path"], _encoded(np.uint8(255) * mask.astype(np.uint8), "PNG")))
        for path, data in contents:
            (Path(root) / folder / path).write_bytes(data)
            files[f"{folder}/{path}"] = hashlib.sha256(data).hexdigest()
    return {"sample": f"{name.category}/{name.folder}", "defective": defective, "files": files}


def _encoded(pixels: np.ndarray, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()
