"""Families that fill the field: polycrystals, lamellae, films, holes, pores, fractures, tracks of a chip.

Shapes, sizes and shares are ours. Each function draws on a `Canvas`; random numbers come from streams that are named
after the family.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen._morphology_canvas import BULK, Canvas, Map
from emsynth.specimen._morphology_ground import count_of, sizes_of, terraces
from emsynth.specimen._morphology_shapes import ellipsoid


def grains(canvas: Canvas) -> None:
    """A polycrystal: cells of graded size with curved borders, grooves, twins, and second-phase grains."""
    rng = canvas.generator("grains")
    count = int(np.clip(canvas.area / canvas.size**2, 4, 4000))
    at = canvas.sites("grains.at", count)
    if rng.random() < 0.4:  # a gradient: small grains in a band
        band = 0.5 + 0.5 * np.cos(2 * math.pi * at[:, 0] / canvas.side[0])
        at = np.concatenate([at[rng.random(count) < 0.25 + 0.75 * band], at[:2]])
    elif rng.random() < 0.4:  # two populations
        at = np.concatenate([at[: max(4, count // 6)], canvas.sites("grains.small", count // 2, 0.95)])
    bend = canvas.size * rng.uniform(0.02, 0.14)
    warp = (
        bend * canvas.noise("grains.row", 0.5 * canvas.size, 3.0),
        bend * canvas.noise("grains.col", 0.5 * canvas.size, 3.0),
    )
    cells = canvas.cells(at, warp)
    second = rng.random(len(at)) < float(rng.choice([0.0, 0.08, 0.3]))
    _polycrystal(
        canvas, cells.owner, cells.gap, len(at), second, twins=float(rng.choice([0.0, 0.2, 0.5])), purpose="grains"
    )


def _polycrystal(
    canvas: Canvas,
    owner: NDArray[np.int64],
    gap: Map,
    count: int,
    second: NDArray[np.bool_],
    twins: float,
    purpose: str,
) -> None:
    rng = canvas.generator(f"{purpose}.polycrystal")
    numbers = np.array([canvas.new_grain(canvas.body) for _ in range(count)])
    ids = numbers[owner]
    if twins > 0:
        # A twin is a band across its grain, with an orientation of its own.
        row, col = canvas.places()
        angle = rng.uniform(0, math.pi, count)
        across = np.cos(angle)[owner] * row + np.sin(angle)[owner] * col
        period, width = canvas.size * rng.uniform(0.5, 1.5, count), rng.uniform(0.1, 0.35, count)
        inside = (np.mod(across / period[owner], 1.0) < width[owner]) & (rng.random(count) < twins)[owner]
        partner = np.array([canvas.new_grain(canvas.body) for _ in range(count)])
        ids = np.where(inside, partner[owner], ids)
    level = rng.standard_normal(count)[owner] * canvas.size * 0.06 * canvas.aspect * float(rng.choice([0.1, 0.6, 2.0]))
    groove = canvas.size * 0.04 * canvas.aspect * rng.uniform(0.2, 1.5)
    wide = max(canvas.size * rng.uniform(0.02, 0.1), 1.2 * canvas.step)
    lean = rng.normal(0, 0.06, (count, 2)) * canvas.aspect
    tilt = lean[owner, 0] * canvas.noise(f"{purpose}.lean", canvas.size, 3.0) * canvas.size
    level = canvas.smooth(level + tilt, 0.9 * canvas.step)
    surface = (
        level
        - groove * np.exp(-gap / wide)
        + canvas.roughness * canvas.size * 0.1 * canvas.noise(f"{purpose}.rough", 0.2 * canvas.size, 2.0)
    )
    soft = canvas.smooth(second[owner].astype(np.float64), 0.7 * canvas.step)
    thick = canvas.film if canvas.support != "bulk" else BULK
    wedge = np.exp(0.2 * canvas.noise(f"{purpose}.wedge", 0.25 * min(canvas.side), 3.0))
    # A section keeps to a share of its surface's relief: it was thinned from both sides.
    body = np.maximum(thick * wedge + (0.0 if thick >= BULK else np.clip(surface, -0.3 * thick, 0.3 * thick)), 0.0)
    canvas.layer(canvas.body)[:] += body * (1 - soft)
    canvas.layer(canvas.ground)[:] += body * soft
    canvas.height += surface
    canvas.grain[:] = ids


def lamellae(canvas: Canvas) -> None:
    """Lamellae of two phases in colonies of different direction and spacing, as in a eutectic or in pearlite."""
    rng = canvas.generator("lamellae")
    spacing = max(canvas.size * 0.6, 5 * canvas.step)
    colonies = int(rng.integers(3, 40))
    wave = 1.5 * spacing
    warp = (
        wave * canvas.noise("lamellae.row", 6 * spacing, 3.0),
        wave * canvas.noise("lamellae.col", 6 * spacing, 3.0),
    )
    cells = canvas.cells(canvas.sites("lamellae.at", colonies), warp)
    angle, phase = rng.uniform(0, math.pi, colonies), rng.uniform(0, 1, colonies)
    period = spacing * rng.lognormal(0, 0.25, colonies)
    row, col = canvas.places()
    curve = rng.uniform(0.1, 0.8) * spacing * canvas.noise("lamellae.curve", 5 * spacing, 3.0)
    # Continuous in a colony, even across the border of the torus: coordinates from the colony's own place.
    at = canvas.sites("lamellae.at", colonies)
    off = [
        coordinate + shift - at[cells.owner, axis]
        for axis, (coordinate, shift) in enumerate(zip((row, col), warp, strict=True))
    ]
    off = [d - canvas.side[axis] * np.round(d / canvas.side[axis]) for axis, d in enumerate(off)]
    across = np.cos(angle)[cells.owner] * off[0] + np.sin(angle)[cells.owner] * off[1] + curve
    share = float(rng.uniform(0.2, 0.6)) + 0.08 * canvas.noise("lamellae.share", 1.5 * spacing, 2.5)
    within = np.abs(np.mod(across / period[cells.owner] + phase[cells.owner], 1.0) - 0.5) * 2
    phase_two = np.clip(0.5 + (share - within) * period[cells.owner] / (2 * canvas.step), 0, 1)
    if rng.random() < 0.4:  # broken lamellae
        phase_two = phase_two * np.clip(2.2 + 3 * canvas.noise("lamellae.break", 1.2 * spacing, 2.5), 0, 1)
    phase_two = canvas.smooth(phase_two, 0.6 * canvas.step)
    thick = canvas.film * np.exp(0.2 * canvas.noise("lamellae.wedge", 0.25 * min(canvas.side), 3.0))
    whole = np.full(canvas.shape, BULK) if canvas.support == "bulk" else thick
    proud = rng.uniform(-0.3, 0.5) * spacing * canvas.aspect
    canvas.layer(canvas.ground)[:] += whole * (1 - phase_two)
    canvas.layer(canvas.body)[:] += whole * phase_two
    groove = 0.1 * spacing * np.exp(-cells.gap / (0.2 * spacing))
    canvas.height += (
        proud * phase_two
        - groove
        + canvas.roughness * spacing * 0.12 * canvas.noise("lamellae.rough", 0.4 * spacing, 2.2)
    )
    one = np.array([canvas.new_grain(canvas.ground) for _ in range(colonies)])
    two = np.array([canvas.new_grain(canvas.body) for _ in range(colonies)])
    canvas.grain[:] = np.where(phase_two > 0.5, two[cells.owner], one[cells.owner])


def holes(canvas: Canvas) -> None:
    """A film with holes: round and regular, round and random, or lacey; in a bulk, pits."""
    rng = canvas.generator("holes")
    kind = float(rng.random())
    radius = max(canvas.size, 6 * canvas.step)
    if kind < 0.3:  # regular, as of a patterned film
        n = max(2, round(min(canvas.side) / (radius * rng.uniform(2.4, 4))))
        row, col = canvas.places()
        a, b = canvas.side[0] / n, canvas.side[1] / n
        far = np.hypot(np.mod(row, a) - a / 2, np.mod(col, b) - b / 2)
        inside = radius * rng.uniform(0.8, 1.1) - far + 0.02 * radius * canvas.noise("holes.edge", 0.4 * radius, 2.0)
    elif kind < 0.65:
        count = min(count_of(canvas, math.pi * radius**2 * 0.8), 900)
        inside = np.full(canvas.shape, -10 * radius)
        for place, wide in zip(canvas.sites("holes.at", count), sizes_of(canvas, rng, count), strict=True):
            long, angle = rng.uniform(0.75, 1.0), rng.uniform(0, math.pi)
            index, r, c = canvas.patch(place, 2.5 * wide)
            u, v = c * math.cos(angle) + r * math.sin(angle), r * math.cos(angle) - c * math.sin(angle)
            inside[index] = np.maximum(inside[index], wide * long - np.hypot(u * long, v))
        inside = inside + 0.03 * radius * canvas.noise("holes.edge", 0.3 * radius, 2.0)
    else:  # lacey: the gaps between cells, whose walls vary in width
        count = int(np.clip(canvas.area / (2.5 * radius) ** 2, 6, 2500))
        warp = (
            0.25 * radius * canvas.noise("holes.row", radius, 3.0),
            0.25 * radius * canvas.noise("holes.col", radius, 3.0),
        )
        cells = canvas.cells(canvas.sites("holes.at", count), warp)
        open_ = (rng.random(count) < 0.9)[cells.owner]
        wall = np.maximum(radius * (0.2 + 0.1 * canvas.noise("holes.wall", 1.5 * radius, 3.0)), 0.06 * radius)
        # Smoothed, so that corners are round; 0.8 of the deviation is what smoothing leaves in the middle of a wall.
        round_ = 0.3 * radius
        inside = np.where(open_, 1.2 * (canvas.smooth(cells.gap, round_) - 0.8 * round_), 0.0) - wall
    hole = canvas.soft(inside)
    rim = np.exp(-np.abs(inside) / (0.12 * radius)) * (inside < 0)
    thick = (
        canvas.film
        * np.exp(0.15 * canvas.noise("holes.film", 0.2 * min(canvas.side), 3.0))
        * (1 + rng.uniform(0, 0.8) * rim)
    )
    rough = canvas.roughness * canvas.size * 0.2 * canvas.noise("holes.rough", 0.3 * radius, 2.2)
    if canvas.support == "bulk":
        deep = radius * (0.4 + canvas.aspect) * np.clip(inside / (0.35 * radius), 0, 1) ** 0.7
        canvas.layer(canvas.ground)[:] += BULK
        canvas.height += rough - deep * (0.6 + 0.4 * hole) + 0.1 * radius * rim
        if canvas.crystalline[canvas.ground]:
            canvas.grain[:] = canvas.new_grain(canvas.ground)
        return
    canvas.layer(canvas.ground)[:] += thick * (1 - hole)
    canvas.height += (thick + rough) * (1 - hole) - 3 * radius * hole
    if canvas.crystalline[canvas.ground]:
        canvas.grain[:] = np.where(hole < 0.5, np.int16(canvas.new_grain(canvas.ground)), canvas.grain)


def film(canvas: Canvas) -> None:
    """A film of varying thickness: texture on many scales, with islands, cracks, terraces or wrinkles."""
    rng = canvas.generator("film")
    kind = str(rng.choice(["texture", "islands", "cracks", "terraces", "wrinkles", "columns"]))
    slope, size = float(rng.uniform(1.3, 2.4)), canvas.size
    texture = canvas.noise(
        "film.texture", size * rng.uniform(1, 4), slope, float(rng.choice([1.0, 1.0, 4.0])), rng.uniform(0, math.pi)
    )
    base = canvas.film * np.exp(rng.uniform(0.1, 0.35) * texture)
    up = size * canvas.aspect
    relief = 0.12 * up * texture
    if kind == "islands":
        map_ = canvas.noise("film.islands", 1.2 * size, 2.6)
        inside = (map_ - float(np.quantile(map_, 1 - canvas.coverage))) * 0.6 * size
        edge = np.clip(0.5 + inside / (3 * canvas.step), 0, 1)
        dome = 1 - np.exp(-np.maximum(inside, 0) / (0.4 * size))
        base = base * (0.15 + edge * (0.6 + 1.5 * dome))
        relief = relief * 0.3 + 0.3 * up * edge * (0.5 + dome)
    elif kind == "cracks":
        warp = (0.2 * size * canvas.noise("film.row", size, 2.2), 0.2 * size * canvas.noise("film.col", size, 2.2))
        cells = canvas.cells(canvas.sites("film.cells", int(np.clip(canvas.area / (4 * size) ** 2, 5, 1500))), warp)
        wide = np.maximum(size * (0.10 + 0.1 * canvas.noise("film.width", 4 * size, 3.0)), 0.0)
        open_ = canvas.soft(wide - cells.gap)
        curl = np.exp(-cells.gap / (0.7 * size))
        base = base * (1 - open_)
        relief = relief * (1 - open_) - 0.5 * size * open_ + 0.2 * up * curl * (1 - open_)
    elif kind == "terraces":
        level = terraces(canvas.noise("film.level", 4 * size, 2.6) * rng.uniform(1, 3), 3 * canvas.step / (2 * size))
        base = base * np.exp(0.35 * np.clip(level, -4, 4))
        relief = 0.3 * relief + 0.25 * up * level
    elif kind == "wrinkles":
        angle = rng.uniform(0, math.pi)
        fold = np.zeros(canvas.shape)
        for n in range(int(rng.integers(1, 4))):
            wave = canvas.noise(
                f"film.ridge.{n}", 0.8 * size, 4.0, float(rng.uniform(1.5, 5)), angle + n * rng.uniform(0.5, 1.5)
            )
            fold = np.maximum(fold, np.exp(-((wave - rng.uniform(-0.5, 0.8)) ** 2) / (2 * 0.09**2)))
        base = base * (1 + 0.8 * fold)
        relief = 0.3 * relief + 0.3 * up * fold
    elif kind == "columns":
        at = canvas.sites("film.cells", int(np.clip(canvas.area / (0.5 * size) ** 2, 9, 5000)))
        cells = canvas.cells(at)
        high = rng.normal(0, 1, len(at))[cells.owner]
        dome = 1 - np.exp(-cells.gap / (0.12 * size))
        base = base * (0.7 + 0.4 * dome + 0.06 * high)
        relief = 0.5 * relief + 0.15 * up * dome * (1.5 + 0.4 * high)
    base = np.maximum(base, 0.0)
    if canvas.support == "bulk":
        base = np.minimum(base + np.maximum(relief, 0), canvas.film + 4 * size)
    canvas.layer(canvas.body)[:] += base
    canvas.height += relief
    # One crystal, whatever its thickness.
    if canvas.crystalline[canvas.body]:
        canvas.grain[:] = np.where(base > 0.2 * canvas.film, np.int16(canvas.new_grain(canvas.body)), canvas.grain)


def porous(canvas: Canvas) -> None:
    """Two interwoven networks, solid and pore, from several random surfaces one below the other (Cahn, 1965)."""
    rng = canvas.generator("porous")
    length = max(canvas.size, 8 * canvas.step)
    depth = 3
    solid_share = float(np.clip(canvas.coverage, 0.3, 0.75))
    thick, top = np.zeros(canvas.shape), np.full(canvas.shape, -depth * 0.8 * length)
    for level in range(depth):
        wave = _ring_noise(canvas, f"porous.{level}", length, float(rng.uniform(0.2, 0.45)))
        cut = float(np.quantile(wave, 1 - solid_share * (1.0 - 0.1 * level)))
        inside = (wave - cut) * length / (2 * math.pi) * 1.2
        cover = canvas.soft(inside)
        bar = length * 0.35 * np.sqrt(np.clip(1 - (1 - np.clip(inside / (0.22 * length), 0, 1)) ** 2, 0, 1))
        thick += cover * bar * 1.6
        surface = -level * 0.8 * length + canvas.aspect * bar
        top = np.maximum(top, top + cover * (surface - top))
    rough = canvas.roughness * 0.1 * length * canvas.noise("porous.rough", 0.2 * length, 2.2)
    canvas.height += top + rough
    scale = 1.0 if canvas.support == "bulk" else canvas.film / (depth * 0.35 * length)
    canvas.layer(canvas.body)[:] += thick * scale
    if canvas.support == "bulk":
        canvas.layer(canvas.body)[:] += BULK
    if canvas.crystalline[canvas.body]:
        cells = canvas.cells(canvas.sites("porous.grains", int(np.clip(canvas.area / (5 * length) ** 2, 3, 500))))
        number = np.array([canvas.new_grain(canvas.body) for _ in range(int(cells.owner.max()) + 1)])
        canvas.grain[:] = np.where(thick > 0.2 * length * 0.35, number[cells.owner], -1)


def _ring_noise(canvas: Canvas, purpose: str, length: float, width: float) -> Map:
    """Random field with waves of about one `length`, of any direction: spinodal, mean 0, deviation 1."""
    white = canvas.generator(purpose).standard_normal(canvas.shape, np.float32)
    rows, cols = canvas.shape
    f = np.hypot(np.fft.fftfreq(rows, canvas.step)[:, None], np.fft.rfftfreq(cols, canvas.step)[None])
    made = np.fft.irfft2(
        np.fft.rfft2(white) * np.exp(-((f * length - 1) ** 2) / (2 * width**2)) * (f > 0), s=canvas.shape
    )
    wave: Map = made / made.std()
    return wave


def fracture(canvas: Canvas) -> None:
    """A fracture surface: ductile dimples, cleavage facets with river lines, or a rough intergranular break."""
    rng = canvas.generator("fracture")
    kind = str(rng.choice(["dimples", "cleavage", "intergranular"]))
    size = max(canvas.size, 8 * canvas.step)
    count = int(np.clip(canvas.area / size**2, 8, 4000))
    warp = (
        0.12 * size * canvas.noise("fracture.row", 0.8 * size, 2.5),
        0.12 * size * canvas.noise("fracture.col", 0.8 * size, 2.5),
    )
    at = canvas.sites(
        "fracture.at", count if kind == "dimples" else max(8, count // 6), 0.3 if kind == "dimples" else 0.0
    )
    cells = canvas.cells(at, warp)
    wide = size if kind == "dimples" else 2.4 * size
    landscape = 0.8 * size * canvas.aspect * canvas.noise("fracture.landscape", 3.5 * size, 2.4)
    row, col = canvas.places()
    if kind == "dimples":
        part = cells.away / np.maximum(cells.away + cells.gap, 1e-6)
        deep = rng.uniform(0.4, 1.2, len(at))[cells.owner] * (cells.away + cells.gap) * canvas.aspect
        surface = 0.8 * landscape + deep * (part**2 - 1) * 0.9
    else:
        lean = rng.normal(0, 0.35 if kind == "cleavage" else 0.7, (len(at), 2)) * canvas.aspect
        off = [
            coordinate + shift - at[cells.owner, axis]
            for axis, (coordinate, shift) in enumerate(zip((row, col), warp, strict=True))
        ]
        off = [d - canvas.side[axis] * np.round(d / canvas.side[axis]) for axis, d in enumerate(off)]
        plane = lean[cells.owner, 0] * off[0] + lean[cells.owner, 1] * off[1]
        surface = 0.5 * landscape + plane + rng.normal(0, 0.06 * wide * canvas.aspect, len(at))[cells.owner]
        if kind == "cleavage":
            angle = rng.uniform(0, 2 * math.pi, len(at))
            along = np.cos(angle)[cells.owner] * off[0] + np.sin(angle)[cells.owner] * off[1]
            river = canvas.noise("fracture.river", 0.8 * size, 2.0) * 0.9 + along / (0.5 * size)
            surface = surface + 0.1 * size * canvas.aspect * terraces(river, 0.15)
        else:
            # Grains that were torn out or left standing: hipped roofs and pits, whose faces meet at the borders.
            steep = rng.normal(0, 0.9, len(at)) * canvas.aspect
            cap = wide * rng.uniform(0.12, 0.5, len(at))
            lean = lean / max(canvas.aspect, 0.1)
            tilted = (lean[cells.owner, 0] * off[0] + lean[cells.owner, 1] * off[1]) * np.clip(
                cells.gap / (0.15 * wide), 0, 1
            )
            surface = (
                landscape + steep[cells.owner] * np.minimum(cells.gap, cap[cells.owner]) + 0.5 * canvas.aspect * tilted
            )
        surface = canvas.smooth(surface, 1.2 * canvas.step)
    canvas.height += surface + max(canvas.roughness, 0.03) * 0.1 * size * canvas.noise(
        "fracture.rough", 0.25 * size, 2.0
    )
    if canvas.support == "bulk":
        canvas.layer(canvas.ground)[:] += BULK
    else:
        lifted = np.clip(surface / (2 * max(float(surface.std()), 1e-9)), -1.5, 3)
        canvas.layer(canvas.ground)[:] += canvas.film * np.exp(0.4 * lifted)
    number = np.array([canvas.new_grain(canvas.ground) for _ in range(len(at))])
    canvas.grain[:] = number[cells.owner]
    if kind == "dimples" and rng.random() < 0.7:  # inclusions at the bottom of some
        for place in at[rng.random(len(at)) < 0.12]:
            r = size * float(rng.uniform(0.06, 0.16))
            if r > 1.5 * canvas.step:
                canvas.lay(
                    place - np.array([warp[0].mean(), warp[1].mean()]),
                    1.3 * r,
                    ellipsoid(r, r, r, 0, canvas.step, 0.4),
                    canvas.body,
                )


def tracks(canvas: Canvas) -> None:
    """Conductors of a chip: straight tracks on a grid with gaps, bends, pads and vias, on a smooth dielectric."""
    rng = canvas.generator("tracks")
    rows, cols = canvas.shape
    pitch_px = max(canvas.size / canvas.step, 8.0)
    n = max(3, round(min(rows, cols) / pitch_px))
    width = float(rng.uniform(0.35, 0.65))
    angle = bool(rng.random() < 0.5)
    row, col = canvas.places()
    across, along = (row, col) if angle else (col, row)
    span, length = (canvas.side[0], canvas.side[1]) if angle else (canvas.side[1], canvas.side[0])
    pitch = span / n
    inside = np.full(canvas.shape, -pitch)
    for track in range(n):
        middle = (track + 0.5) * pitch
        off = np.abs(across - middle)
        off = np.minimum(off, span - off)
        wide = pitch * width / 2 * float(rng.choice([1.0, 1.0, 1.0, 1.6]))
        if rng.random() < 0.12:
            continue
        for _ in range(int(rng.integers(1, 4))):
            if rng.random() < 0.35:
                run = np.full_like(along, pitch)
            else:
                half, centre = rng.uniform(0.08, 0.45) * length, rng.uniform(0, length)
                far = np.abs(along - centre)
                run = half - np.minimum(far, length - far)
            inside = np.maximum(inside, np.minimum(wide - off, run))
        for _ in range(int(rng.integers(0, 3))):  # a bridge to the next track
            centre = rng.uniform(0, length)
            far = np.abs(along - centre)
            far = np.minimum(far, length - far)
            other = np.abs(across - middle - pitch / 2)
            other = np.minimum(other, span - other)
            inside = np.maximum(inside, np.minimum(pitch * width / 2 - far, pitch * (0.5 + width / 2) - other))
    ragged = 0.012 * pitch * canvas.noise("tracks.edge", 0.25 * pitch, 1.8)
    slope = max(pitch * rng.uniform(0.01, 0.12), canvas.step)
    cover = np.clip(0.5 + (inside + ragged) / slope, 0, 1)
    tall = pitch * width * canvas.aspect * rng.uniform(0.3, 1.0)
    metal = canvas.smooth(cover, 0.5 * canvas.step)
    grainy = (
        0.03 * tall * canvas.noise("tracks.rough", 0.15 * pitch, 1.6) if rng.random() < 0.6 else np.zeros(canvas.shape)
    )
    thick = tall if canvas.support == "bulk" else canvas.film
    canvas.layer(canvas.body)[:] += thick * metal
    canvas.height += (tall + grainy) * metal
    cells = canvas.cells(canvas.sites("tracks.grains", int(np.clip(canvas.area / pitch**2 * 2, 9, 5000))))
    if canvas.crystalline[canvas.body]:
        number = np.array([canvas.new_grain(canvas.body) for _ in range(int(cells.owner.max()) + 1)])
        canvas.grain[:] = np.where(metal > 0.5, number[cells.owner], canvas.grain)
    for _ in range(int(rng.integers(0, 3 * n))):  # vias: pits in tracks
        place = np.array([(rng.integers(n) + 0.5) * pitch, rng.uniform(0, length)])
        index, r, c = canvas.patch(place if angle else place[::-1], pitch)
        pit = canvas.soft(pitch * width * 0.28 - np.hypot(r, c))
        canvas.height[index] -= 0.6 * tall * pit * metal[index]
        canvas.layer(canvas.body)[index] *= 1 - 0.7 * pit
