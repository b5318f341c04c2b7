"""Bodies to be laid on a canvas: height, thickness and coverage around a centre. All lengths in Å."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen._morphology_canvas import Map, Shape

# Part of a face's normal along the beam below which it is a side, seen edge on.
_STEEP = 0.03


def _turned(row: Map, col: Map, angle: float) -> tuple[Map, Map]:
    """Coordinates along and across `angle`, from the column axis to the row axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * col + sin * row, cos * row - sin * col


def ellipsoid(long: float, short: float, tall: float, angle: float, step: float, sunk: float = 0.0) -> Shape:
    """Half axes in the plane, half its height; `sunk` from 0 (touches the ground) to 1 (a hemisphere)."""

    def shape(row: Map, col: Map) -> tuple[Map, Map, Map]:
        along, across = _turned(row, col, angle)
        q = (along / long) ** 2 + (across / short) ** 2
        dome = tall * np.sqrt(np.maximum(1 - q, 0.0))
        cover = np.clip(0.5 + (1 - np.sqrt(q)) * short / step, 0, 1)
        return tall * (1 - sunk) + dome, 2 * dome if sunk < 1 else dome, cover

    return shape


def polyhedron(
    rng: np.random.Generator, radius: float, tall: float, faces: int, step: float, cube: bool = False
) -> Shape:
    """A convex body between random planes (or six square ones), turned at random: height and projected thickness."""
    if cube:
        normal = np.concatenate([np.eye(3), -np.eye(3)])
        distance = np.repeat(rng.uniform(0.75, 1.0, 3) if rng.random() < 0.4 else np.ones(3) * 0.9, 2)
        distance = np.concatenate([distance[::2], distance[::2]])
        if rng.random() < 0.5:  # truncated corners
            corner = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / math.sqrt(3)
            normal = np.concatenate([normal, corner])
            distance = np.concatenate([distance, np.full(8, rng.uniform(1.05, 1.35))])
    else:
        normal = rng.standard_normal((faces, 3))
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        normal = np.concatenate([normal, -normal])  # centrosymmetric, as the forms of most crystals
        distance = np.concatenate([rng.uniform(0.72, 1.0, faces)] * 2)
    lying = cube and rng.random() < 0.6
    turn = _rotation(rng) if not lying else _about_z(rng.uniform(0, 2 * math.pi))
    normal = normal @ turn.T
    # A body that is flatter than wide: planes of the squeezed solid.
    squeeze = tall / radius
    normal = normal / np.array([1.0, 1.0, squeeze])
    scale = np.linalg.norm(normal, axis=1)
    normal, distance = normal / scale[:, None], distance * radius / scale

    def shape(row: Map, col: Map) -> tuple[Map, Map, Map]:
        size = np.broadcast_shapes(row.shape, col.shape)
        above, below = np.full(size, 1.3 * tall), np.full(size, -1.3 * tall)
        side = np.full(size, np.inf)
        for (nx, ny, nz), d in zip(normal, distance, strict=True):
            left = d - nx * col - ny * row
            if nz > _STEEP:
                above = np.minimum(above, left / nz)
            elif nz < -_STEEP:
                below = np.maximum(below, left / nz)
            else:
                side = np.minimum(side, left / math.hypot(nx, ny))
        across = np.maximum(above - below, 0.0)
        cover = np.clip(0.5 + side / step, 0, 1) * np.clip(across / (0.5 * step + 0.02 * tall), 0, 1)
        lowest = below[across > 0].min() if (across > 0).any() else 0.0
        return np.maximum(above - lowest, 0.0), across, cover

    return shape


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    # A uniform unit quaternion (Shoemake, 1992).
    a, b, c, d = (values := rng.standard_normal(4)) / math.sqrt(float(values @ values))
    return np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )


def _about_z(angle: float) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def rod(length: float, radius: float, tall: float, angle: float, step: float, faceted: bool = False) -> Shape:
    """A rod of half length `length`, with round ends and a round or (faceted) three-sided upper half."""

    def shape(row: Map, col: Map) -> tuple[Map, Map, Map]:
        along, across = _turned(row, col, angle)
        past = np.maximum(np.abs(along) - (length - (0 if faceted else radius)), 0.0)
        if faceted:
            off = np.abs(across)
            roof = np.clip((radius - off) / (0.5 * radius), 0, 1) * np.clip(
                (length - np.abs(along)) / (0.3 * radius), 0, 1
            )
            cover = np.clip(0.5 + np.minimum(radius - off, length - np.abs(along)) / step, 0, 1)
            return tall * (1 + roof), 2 * tall * np.maximum(roof, 0.15) * (cover > 0), cover
        far = np.hypot(past, across) / radius
        dome = tall * np.sqrt(np.maximum(1 - far**2, 0.0))
        return tall + dome, 2 * dome, np.clip(0.5 + (1 - far) * radius / step, 0, 1)

    return shape


def plate(
    rng: np.random.Generator,
    radius: float,
    thickness: float,
    step: float,
    tilt: float = 0.0,
    regular: bool = False,
    ragged: float = 0.0,
) -> Shape:
    """A flat polygon of constant thickness, tilted by up to `tilt` (slope); six-sided where regular."""
    corners = 6 if regular else int(rng.integers(4, 9))
    start = rng.uniform(0, 2 * math.pi)
    angle = start + np.arange(corners) * 2 * math.pi / corners
    distance = np.full(corners, radius)
    if not regular:
        angle = angle + rng.uniform(-0.25, 0.25, corners)
        distance = radius * rng.uniform(0.55, 1.0, corners)
    slope = rng.uniform(-tilt, tilt, 2)
    wave = rng.uniform(0, 2 * math.pi, 4), rng.integers(5, 24, 4)

    def shape(row: Map, col: Map) -> tuple[Map, Map, Map]:
        inside = np.full(np.broadcast_shapes(row.shape, col.shape), np.inf)
        for a, d in zip(angle, distance, strict=True):
            inside = np.minimum(inside, d - col * math.cos(a) - row * math.sin(a))
        if ragged > 0:
            around = np.arctan2(row, col)
            for phase, count in zip(*wave, strict=True):
                inside = inside + ragged * radius / count**0.5 * np.sin(count * around + phase)
        cover = np.clip(0.5 + inside / step, 0, 1)
        lean = slope[0] * row + slope[1] * col
        lifted = thickness + lean + float(np.hypot(*slope)) * radius
        thick = np.full_like(inside, thickness)
        return lifted, thick, cover

    return shape
