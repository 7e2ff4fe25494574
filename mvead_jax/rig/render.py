"""One view: rays, shading, edge pixels again with more rays, and the sensor.

Colours are linear RGB until the sensor. `hits` of the pixel centres also decide the masks.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from mvead_jax.rig import cameras
from mvead_jax.rig.defects import Stain
from mvead_jax.rig.light import DiffuseLight, Light, radiance
from mvead_jax.rig.materials import Finish, surface
from mvead_jax.rig.mesh import Hits, Scene

Traced = tuple[Hits, np.ndarray]  # hits of a view's rays, and their directions [n,3]

# Four extra rays for a pixel on an edge (rotated grid), relative to the pixel's corner.
_SUBPIXELS = ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875))


def pixel_centers(size: int) -> np.ndarray:
    """Centres (x, y) [size*size,2] of all pixels, row by row."""
    rows, columns = np.divmod(np.arange(size * size), size)
    return np.stack([columns + 0.5, rows + 0.5], axis=1)


def trace_view(scene: Scene, rig: cameras.Rig, view: int) -> Traced:
    """Hits of the rays through all pixel centres of one view, and their directions [n,3]."""
    return _trace(scene, rig, view, pixel_centers(rig.size))


def _trace(scene: Scene, rig: cameras.Rig, view: int, pixels: np.ndarray) -> Traced:
    directions = cameras.rays(pixels, rig.K[view], rig.R[view]).astype(np.float32)
    origins = np.broadcast_to(np.float32(rig.centers[view]), directions.shape)
    return scene.trace(origins, directions), directions


def render_view(
    scene: Scene,
    rig: cameras.Rig,
    view: int,
    traced: Traced,
    light: Light,
    baked: DiffuseLight,
    finish: Finish,
    stain: Stain | None,
) -> np.ndarray:
    """Linear image [size,size,3] of one view.

    Args:
      traced: what `trace_view` gave for this scene and view.
      baked: the scene's diffuse light; five views share it.
      stain: a blot on the part, if it has one.
    """
    hits, directions = traced
    size = rig.size
    image = shade(scene, hits, directions, light, baked, finish, stain)
    edges = np.flatnonzero(_edges(scene, hits, image, size))
    rows, columns = np.divmod(edges, size)
    pixels = np.concatenate([np.stack([columns + x, rows + y], axis=1) for x, y in _SUBPIXELS])
    extra = shade(scene, *_trace(scene, rig, view, pixels), light, baked, finish, stain)
    image[edges] = extra.reshape(len(_SUBPIXELS), -1, 3).mean(axis=0)
    return image.reshape(size, size, 3)


def _edges(scene: Scene, hits: Hits, image: np.ndarray, size: int) -> np.ndarray:
    """bool [size*size]: pixels that touch another component, another material or another brightness."""
    inside = hits.face >= 0
    label = np.where(inside, scene.component[hits.face] * np.int32(256) + scene.material[hits.face], -1)
    label = label.reshape(size, size)
    tone = np.log(image.mean(axis=1).reshape(size, size) + 0.02)
    edge = np.zeros((size, size), bool)
    for axis in (0, 1):
        changed = (np.diff(label, axis=axis) != 0) | (np.abs(np.diff(tone, axis=axis)) > 0.28)
        near = (slice(None), slice(None, -1)) if axis else (slice(None, -1), slice(None))
        far = (slice(None), slice(1, None)) if axis else (slice(1, None), slice(None))
        edge[near] |= changed
        edge[far] |= changed
    return edge.ravel()


def shade(
    scene: Scene,
    hits: Hits,
    directions: np.ndarray,
    light: Light,
    baked: DiffuseLight,
    finish: Finish,
    stain: Stain | None,
) -> np.ndarray:
    """Linear colour [n,3] of rays that hit (or missed: dark) something."""
    color = np.full((len(directions), 3), 0.02, np.float32)
    hit = np.flatnonzero(hits.face >= 0)
    inside = hits.at(hit)
    view = -directions[hit]
    normals = _unit(scene.interpolate(inside, scene.normals))
    points = scene.interpolate(inside, scene.part)
    diffuse, openness = baked.at(inside)
    material = scene.material[inside.face]
    albedo, metallic, roughness, normals = surface(points, normals, material, finish)
    if stain is not None:
        on_part = scene.component[inside.face] > 0
        stain.apply(points, on_part, albedo, metallic, roughness)

    facing = np.clip(np.einsum("nj,nj->n", normals, view), 0.05, 1.0)
    reflected = 2.0 * facing[:, None] * normals - view
    gloss = radiance(light, reflected, roughness) * np.clip(0.15 + 0.95 * openness, 0.0, 1.0)
    shiny = np.flatnonzero((metallic > 0.5) & (roughness < 0.42))
    mirrored, reflection = _reflections(scene, inside, shiny, normals, reflected, baked, finish)
    gloss[mirrored] = reflection
    # Rough metal scatters: its gloss turns into baked light, which knows shadows.
    rough = np.clip(1.25 * roughness - 0.1, 0.0, 0.85) * metallic
    gloss = gloss + rough * (diffuse - gloss)
    base = 0.04 + (albedo - 0.04) * metallic[:, None]
    grazing = ((1.0 - facing) ** 5 * (1.0 - roughness) * openness)[:, None]
    fresnel = base + (1.0 - base) * grazing
    # Light that bounces between close walls takes on their colour.
    bounced = diffuse[:, None] * (1.0 + 0.7 * (1.0 - openness)[:, None] * albedo)
    shade = albedo * (1.0 - metallic)[:, None] * bounced + fresnel * gloss[:, None]
    color[hit] = shade * light.tint
    return color


def _reflections(
    scene: Scene,
    hits: Hits,
    shiny: np.ndarray,
    normals: np.ndarray,
    reflected: np.ndarray,
    baked: DiffuseLight,
    finish: Finish,
) -> tuple[np.ndarray, np.ndarray]:
    """What smooth metal mirrors of its neighbours: one reflected ray, answered by the baked light.

    Args:
      shiny [k]: which of the n hits mirror. normals, reflected [n,3]: at the hits.

    Returns:
      The hits [j] whose reflected ray met something, and its brightness [j].
    """
    start = scene.interpolate(hits.at(shiny), scene.vertices)
    second = scene.trace(start + np.float32(0.03) * normals[shiny], reflected[shiny])
    met = np.flatnonzero(second.face >= 0)
    seen = second.at(met)
    brightness = np.array([np.mean(material.color) for material in finish.table], np.float32)
    return shiny[met], baked.at(seen)[0] * brightness[scene.material[seen.face]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the sensor makes of a linear image: uint8 sRGB [h,w,3].

    Lens blur, exposure that wanders by a few per cent, vignetting, photon and read noise, a soft shoulder.
    """
    size = image.shape[0]
    blurred = gaussian_filter(image, (0.45, 0.45, 0.0))
    axis = (np.arange(size) + 0.5) / size - 0.5
    vignette = 1.0 - 0.22 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    signal = blurred * (vignette * np.exp(rng.uniform(-0.05, 0.05)))[..., None].astype(np.float32)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = signal + noise * np.sqrt(3e-4 * np.maximum(signal, 0.0) + 4e-6).astype(np.float32)
    return encode(signal)


def encode(linear: np.ndarray) -> np.ndarray:
    """Linear light to uint8 sRGB with a shoulder that keeps highlights from clipping."""
    signal = np.maximum(0.85 * linear, 0.0)
    toned = np.where(signal < 0.5, signal, 1.0 - 0.5 * np.exp(-2.0 * (signal - 0.5)))
    coded = np.where(toned < 0.0031308, 12.92 * toned, 1.055 * toned ** (1.0 / 2.4) - 0.055)
    return np.round(255.0 * coded).astype(np.uint8)
