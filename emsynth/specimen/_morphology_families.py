"""The families of morphology: each draws one kind of specimen on a canvas. Shapes, sizes and shares are ours.

Each function takes a `Canvas` whose ground has been laid (or not: see `GROUNDLESS`) and draws on it. Random numbers come
from streams that are named after the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen._morphology_canvas import BULK, Canvas, Map, Shape
from emsynth.specimen._morphology_shapes import ellipsoid, plate, polyhedron, rod

# More bodies than this are not drawn: the coverage stays below what was asked.
_MOST = 3500


def _count(canvas: Canvas, area: float, most: int = _MOST) -> int:
    """How many bodies of `area` Å² cover as much as asked, where they overlap at random: 1 - exp(-n·area/total)."""
    asked = -math.log(1 - min(canvas.coverage, 0.98))
    return int(np.clip(round(asked * canvas.area / area), 1, most))


def _sizes(canvas: Canvas, rng: np.random.Generator, count: int, spread: float | None = None) -> Map:
    """Log-normal widths in Å, at most a quarter of the field."""
    wide = canvas.size * rng.lognormal(0.0, canvas.spread if spread is None else spread, count)
    clipped: Map = np.clip(wide, 2.5 * canvas.step, 0.25 * min(canvas.side))
    return clipped


def ground(canvas: Canvas) -> None:
    """What carries the features: a rough bulk, a film of varying thickness, or nothing."""
    if canvas.support == "none":
        return
    rng = canvas.generator("ground")
    wave = canvas.noise("ground.wave", 0.12 * min(canvas.side), 3.0)
    fine = canvas.noise("ground.fine", 0.3 * canvas.size, 2.2)
    rough = canvas.roughness * canvas.size
    if canvas.support == "film":
        thickness = canvas.film * np.exp(rng.uniform(0.02, 0.2) * wave + min(0.15, canvas.roughness) * 0.3 * fine)
        canvas.layer(canvas.ground)[:] = thickness
        canvas.height += thickness + 0.1 * rough * wave
        return
    canvas.layer(canvas.ground)[:] = BULK
    canvas.height += 0.5 * rough * wave + 0.25 * rough * fine
    kind = rng.random()
    if kind < 0.2:  # polishing scratches
        _scratches(canvas, int(rng.integers(5, 60)), 0.04 * canvas.size)
    elif kind < 0.4:  # steps of a cleaved crystal
        slope = canvas.noise("ground.steps", 0.3 * min(canvas.side), 3.0) * rng.uniform(2, 5)
        canvas.height += 0.12 * canvas.size * _terraces(slope, 0.06)
    if canvas.crystalline[canvas.ground]:
        canvas.grain[:] = canvas.new_grain(canvas.ground)


def _terraces(values: Map, width: float) -> Map:
    """A staircase of unit steps, each spread over `width` of the way to the next one."""
    whole = np.floor(values)
    part = np.clip((values - whole - 0.5) / width + 0.5, 0, 1)
    stepped: Map = whole + part * part * (3 - 2 * part)
    return stepped


def _scratches(canvas: Canvas, count: int, deep: float) -> None:
    """Fine grooves that run out at both ends, most of them along one direction."""
    rng = canvas.generator("scratches")
    main, scatter = rng.uniform(0, math.pi), float(rng.choice([0.05, 0.3, 2.0]))
    for _ in range(count):
        wide, half = canvas.step * rng.uniform(1.0, 3.0), rng.uniform(0.05, 0.24) * min(canvas.side)
        angle = main + rng.normal(0, scatter)
        index, row, col = canvas.patch(rng.uniform(0, 1, 2) * canvas.side, half)
        along, across = col * math.cos(angle) + row * math.sin(angle), row * math.cos(angle) - col * math.sin(angle)
        groove = np.exp(-((across / wide) ** 2)) * np.clip(1 - (along / half) ** 2, 0, 1) ** 2
        canvas.height[index] -= min(deep, wide) * rng.uniform(0.2, 1.0) * groove


def _body(canvas: Canvas, rng: np.random.Generator, wide: float, kind: str) -> tuple[float, Shape]:
    """Reach and shape of one particle of a `wide` Å."""
    radius = wide / 2
    tall = radius * canvas.aspect
    if kind == "round":
        long = radius * rng.lognormal(0.0, 0.18)
        return 1.7 * max(long, radius), ellipsoid(long, radius, tall, rng.uniform(0, math.pi), canvas.step,
                                                  float(rng.choice([0.0, 0.3, 0.6])))
    if kind == "rod":
        length = radius * float(rng.uniform(2.0, 7.0))
        return length * 1.1, rod(length, 0.5 * radius, 0.5 * tall, rng.uniform(0, math.pi), canvas.step,
                                 bool(rng.random() < 0.4))
    if kind == "plate":
        return 1.5 * radius, plate(rng, radius, max(0.25 * tall, canvas.step * 0.2), canvas.step, 0.15, rng.random() < 0.5)
    return 1.9 * radius, polyhedron(rng, radius, tall, int(rng.integers(5, 12)), canvas.step, kind == "cube")


def particles(canvas: Canvas) -> None:
    """Particles of log-normal size: round, faceted, cubes, rods or plates, alone or in clouds."""
    rng = canvas.generator("particles")
    kinds = ["round", "faceted", "cube", "rod", "plate"]
    main = str(rng.choice(kinds, p=[0.35, 0.3, 0.12, 0.13, 0.1]))
    other, share = str(rng.choice(kinds)), float(rng.choice([0.0, 0.0, 0.15, 0.4]))
    lean = 2.5 if main == "rod" else 0.8
    mean = lean * (canvas.size / 2) ** 2 * math.exp(2 * canvas.spread**2) * math.pi / 2.2
    count = _count(canvas, mean)
    at = canvas.sites("particles.at", count, float(rng.choice([0.0, 0.4, 0.85])))
    # Large ones first, so that small ones lie on them.
    for place, wide in zip(at, np.sort(_sizes(canvas, rng, count))[::-1], strict=True):
        reach, shape = _body(canvas, rng, float(wide), other if rng.random() < share else main)
        canvas.lay(place, reach, shape, canvas.body)


def spheres(canvas: Canvas) -> None:
    """Beads of nearly one size: close-packed rafts with gaps and boundaries, in one or two layers, and strays."""
    rng = canvas.generator("spheres")
    radius = max(canvas.size, 6 * canvas.step) / 2
    radius = max(radius, math.sqrt(canvas.area / 6000))
    spread = float(rng.choice([0.01, 0.03, 0.06]))
    island = canvas.noise("spheres.island", 8 * radius, 3.0)
    limit = float(np.quantile(island, 1 - min(canvas.coverage, 0.97)))
    zones = canvas.cells(canvas.sites("spheres.zones", int(rng.integers(2, 9))))
    angle = rng.uniform(0, math.pi / 3, 16)
    shift = rng.uniform(0, 2 * radius, (16, 2))
    gap = float(rng.uniform(1.0, 1.05))
    for level in range(1 + int(rng.random() < 0.5)):
        places = _raft(canvas, radius * gap, zones.owner, angle, shift + level * radius * np.array([0.577, 1.0]))
        for place in places:
            pixel = tuple(np.mod(np.rint(place / canvas.step).astype(int), canvas.shape))
            if island[pixel] < limit + 0.9 * level or rng.random() < 0.03:
                continue
            r = radius * float(np.clip(rng.normal(1, spread), 0.7, 1.3))
            nudge = place + rng.normal(0, 0.02 * radius, 2)
            canvas.lay(nudge, 1.1 * r, ellipsoid(r, r, r, 0.0, canvas.step), canvas.body,
                       base=_floor_of(canvas, place) + level * 1.633 * radius)
    for place in canvas.sites("spheres.stray", int(rng.integers(0, 12))):
        r = radius * float(rng.uniform(0.8, 1.5))
        canvas.lay(place, 1.1 * r, ellipsoid(r, r, r, 0.0, canvas.step), canvas.body)


def _floor_of(canvas: Canvas, place: NDArray[np.float64]) -> float:
    # Of the ground, which is nearly flat: what has been laid since must not lift a bead of the same layer.
    return float(np.quantile(canvas.height[::17, ::17], 0.02)) if canvas.support != "none" else 0.0


def _raft(canvas: Canvas, radius: float, owner: NDArray[np.int64], angle: Map, shift: Map) -> Map:
    """Places of close-packed discs; each zone has a lattice of its own, and none is nearer than a diameter to another."""
    kept: list[NDArray[np.float64]] = []
    reach = int(0.8 * max(canvas.side) / radius) + 3
    a = 2 * radius
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    lattice = np.stack([j * a * math.sqrt(3) / 2, i * a + (j % 2) * radius], -1).reshape(-1, 2)
    side = np.array(canvas.side)
    taken: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for zone in range(int(owner.max()) + 1):
        cos, sin = math.cos(angle[zone % 16]), math.sin(angle[zone % 16])
        at = lattice @ np.array([[cos, -sin], [sin, cos]]) + shift[zone % 16] + side / 2
        at = at[np.all((at >= 0) & (at < side), axis=1)]
        pixel = np.mod(np.rint(at / canvas.step).astype(int), canvas.shape)
        for place in at[owner[pixel[:, 0], pixel[:, 1]] == zone]:
            cell = (int(place[0] // a), int(place[1] // a))
            if _is_free(place, cell, taken, 0.97 * a, side, a):
                taken.setdefault(cell, []).append(place)
                kept.append(place)
    return np.array(kept).reshape(-1, 2)


def _is_free(place: NDArray[np.float64], cell: tuple[int, int], taken: dict[tuple[int, int], list[NDArray[np.float64]]],
             least: float, side: NDArray[np.float64], a: float) -> bool:
    cells = np.maximum((side // a).astype(int) + 1, 1)
    around = {((cell[0] + i) % cells[0], (cell[1] + j) % cells[1]) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)}
    for key in around:
        for other in taken.get((int(key[0]), int(key[1])), []):
            apart = place - other
            apart -= side * np.round(apart / side)
            if float(np.hypot(*apart)) < least:
                return False
    return True


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
    warp = (bend * canvas.noise("grains.row", 0.5 * canvas.size, 3.0), bend * canvas.noise("grains.col", 0.5 * canvas.size, 3.0))
    cells = canvas.cells(at, warp)
    second = rng.random(len(at)) < float(rng.choice([0.0, 0.08, 0.3]))
    _polycrystal(canvas, cells.owner, cells.gap, len(at), second, twins=float(rng.choice([0.0, 0.2, 0.5])), purpose="grains")


def _polycrystal(canvas: Canvas, owner: NDArray[np.int64], gap: Map, count: int, second: NDArray[np.bool_], twins: float,
                 purpose: str) -> None:
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
    width = max(canvas.size * rng.uniform(0.02, 0.1), 1.2 * canvas.step)
    lean = rng.normal(0, 0.06, (count, 2)) * canvas.aspect
    tilt = lean[owner, 0] * canvas.noise(f"{purpose}.lean", canvas.size, 3.0) * canvas.size
    level = canvas.smooth(level + tilt, 0.9 * canvas.step)
    surface = level - groove * np.exp(-gap / width) + canvas.roughness * canvas.size * 0.1 * canvas.noise(
        f"{purpose}.rough", 0.2 * canvas.size, 2.0)
    soft = canvas.smooth(second[owner].astype(np.float64), 0.7 * canvas.step)
    thick = canvas.film if canvas.support != "bulk" else BULK
    wedge = np.exp(0.2 * canvas.noise(f"{purpose}.wedge", 0.25 * min(canvas.side), 3.0))
    # A section keeps to a share of its surface's relief: it was thinned from both sides.
    body = np.maximum(thick * wedge + (0.0 if thick >= BULK else np.clip(surface, -0.3 * thick, 0.3 * thick)), 0.0)
    canvas.layer(canvas.body)[:] += body * (1 - soft)
    canvas.layer(canvas.ground)[:] += body * soft
    canvas.height += surface
    canvas.grain[:] = ids


def fibres(canvas: Canvas) -> None:
    """A mat of curved fibres, tubes or wires, which cross at many levels; some aligned."""
    rng = canvas.generator("fibres")
    wide = canvas.size * 0.5
    aligned, main = float(rng.choice([0.0, 0.3, 1.2])), rng.uniform(0, math.pi)
    length = float(rng.uniform(0.5, 1.4)) * min(canvas.side)
    curl = float(rng.choice([0.15, 0.5, 1.2])) * rng.uniform(0.5, 1.5)
    hollow = float(rng.choice([0.0, 0.0, 0.55, 0.75]))
    count = _count(canvas, wide * length, 260)
    deep = canvas.size * (2.5 if canvas.support == "bulk" else 0.6)
    starts = canvas.sites("fibres.at", count)
    widths = np.clip(wide * rng.lognormal(0, canvas.spread, count), 2.2 * canvas.step, 0.12 * min(canvas.side))
    levels = np.sort(rng.uniform(0, deep, count))
    tone = float(rng.choice([0.0, 0.0, 0.12]))
    for start, width, level in zip(starts, widths, levels, strict=True):
        toward = main + rng.normal(0, 0.25) if rng.random() < aligned else rng.uniform(0, 2 * math.pi)
        path = _path(rng, start, toward, length * rng.uniform(0.4, 1.3), max(0.35 * width, 1.5 * canvas.step), curl / canvas.size * 0.3)
        beads = width / 2 * (1 + tone * np.sin(np.arange(len(path)) * rng.uniform(0.1, 0.5)))
        _sweep(canvas, path, beads, level, hollow)


def _path(rng: np.random.Generator, start: NDArray[np.float64], toward: float, length: float, stride: float,
          curl: float) -> Map:
    """A way (n, 2) in Å of smoothly wandering direction; `curl` in rad/Å is the deviation of its curvature."""
    n = min(max(int(length / stride), 3), 700)
    bend = np.convolve(rng.standard_normal(n + 40), np.hanning(40) / math.sqrt(15.0), "same")[:n] * curl * stride
    angle = toward + np.cumsum(bend)
    steps = np.stack([np.sin(angle), np.cos(angle)], -1) * stride
    way: Map = start + np.cumsum(steps, axis=0)
    return way


def _sweep(canvas: Canvas, path: Map, radius: Map, level: float, hollow: float = 0.0, aspect: float = 1.0) -> None:
    """Sweep a disc along a path: a round body, or a tube with a wall; the nearest point of the path counts."""
    from scipy.spatial import cKDTree

    reach = float(radius.max()) + 1.5 * canvas.step
    half = math.ceil(reach / canvas.step)
    at = np.rint(path / canvas.step).astype(np.int64)
    at = at[np.r_[True, np.any(np.diff(at, axis=0) != 0, axis=1)]]
    # Unwrapped pixels near the path, each once.
    low = at.min(0) - half
    span = at.max(0) + half - low + 1
    seen = np.zeros(tuple(int(s) for s in span), np.bool_)
    for r, c in at - low:
        seen[r - half:r + half + 1, c - half:c + half + 1] = True
    pixel = np.argwhere(seen) + low
    near, which = cKDTree(path).query(pixel * canvas.step, distance_upper_bound=reach)
    found = np.isfinite(near)
    pixel, near, which = pixel[found], near[found], which[found]
    # Distance to the two segments that meet at the point, not to the point: a path has no beads.
    place = pixel * canvas.step
    r = radius[which]
    for one, two in ((np.maximum(which - 1, 0), which), (which, np.minimum(which + 1, len(path) - 1))):
        along = path[two] - path[one]
        square = np.maximum((along**2).sum(1), 1e-12)
        part = np.clip(((place - path[one]) * along).sum(1) / square, 0, 1)
        far = np.hypot(*(place - path[one] - part[:, None] * along).T)
        r = np.where(far < near, radius[one] + part * (radius[two] - radius[one]), r)
        near = np.minimum(near, far)
    q = (near / r) ** 2
    dome = r * np.sqrt(np.maximum(1 - q, 0)) * aspect
    thickness = 2 * dome - 2 * hollow * r * np.sqrt(np.maximum(1 - q / max(hollow, 1e-6) ** 2, 0)) if hollow else 2 * dome
    cover = np.clip(0.5 + (r - near) / canvas.step, 0, 1)
    wrapped = np.mod(pixel, canvas.shape)
    # A path that meets itself across the border has a pixel twice: the last one counts for the height.
    row, col = wrapped[:, 0], wrapped[:, 1]
    ground = canvas.height[row, col]
    top = level + r * aspect + dome
    np.add.at(canvas.layer(canvas.body), (row, col), cover * thickness)
    above = top > ground
    canvas.height[row, col] = np.where(above, ground + cover * (top - ground), ground)
    number = canvas.new_grain(canvas.body)
    canvas.grain[row, col] = np.where(above & (cover > 0.5), np.int16(number), canvas.grain[row, col])


def lamellae(canvas: Canvas) -> None:
    """Lamellae of two phases in colonies of different direction and spacing, as in a eutectic or in pearlite."""
    rng = canvas.generator("lamellae")
    spacing = max(canvas.size * 0.6, 5 * canvas.step)
    colonies = int(rng.integers(3, 40))
    wave = 1.5 * spacing
    warp = (wave * canvas.noise("lamellae.row", 6 * spacing, 3.0), wave * canvas.noise("lamellae.col", 6 * spacing, 3.0))
    cells = canvas.cells(canvas.sites("lamellae.at", colonies), warp)
    angle, phase = rng.uniform(0, math.pi, colonies), rng.uniform(0, 1, colonies)
    period = spacing * rng.lognormal(0, 0.25, colonies)
    row, col = canvas.places()
    curve = rng.uniform(0.1, 0.8) * spacing * canvas.noise("lamellae.curve", 5 * spacing, 3.0)
    # Continuous in a colony, even across the border of the torus: coordinates from the colony's own place.
    at = canvas.sites("lamellae.at", colonies)
    off = [coordinate + shift - at[cells.owner, axis] for axis, (coordinate, shift) in enumerate(zip((row, col), warp, strict=True))]
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
    canvas.height += proud * phase_two - groove + canvas.roughness * spacing * 0.12 * canvas.noise("lamellae.rough", 0.4 * spacing, 2.2)
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
        count = min(_count(canvas, math.pi * radius**2 * 0.8), 900)
        inside = np.full(canvas.shape, -10 * radius)
        for place, wide in zip(canvas.sites("holes.at", count), _sizes(canvas, rng, count), strict=True):
            long, angle = rng.uniform(0.75, 1.0), rng.uniform(0, math.pi)
            index, r, c = canvas.patch(place, 2.5 * wide)
            u, v = c * math.cos(angle) + r * math.sin(angle), r * math.cos(angle) - c * math.sin(angle)
            inside[index] = np.maximum(inside[index], wide * long - np.hypot(u * long, v))
        inside = inside + 0.03 * radius * canvas.noise("holes.edge", 0.3 * radius, 2.0)
    else:  # lacey: the gaps between cells, whose walls vary in width
        count = int(np.clip(canvas.area / (2.5 * radius) ** 2, 6, 2500))
        warp = (0.25 * radius * canvas.noise("holes.row", radius, 3.0), 0.25 * radius * canvas.noise("holes.col", radius, 3.0))
        cells = canvas.cells(canvas.sites("holes.at", count), warp)
        open_ = (rng.random(count) < 0.9)[cells.owner]
        wall = np.maximum(radius * (0.2 + 0.1 * canvas.noise("holes.wall", 1.5 * radius, 3.0)), 0.06 * radius)
        # Smoothed, so that corners are round; 0.8 of the deviation is what smoothing leaves in the middle of a wall.
        round_ = 0.3 * radius
        inside = np.where(open_, 1.2 * (canvas.smooth(cells.gap, round_) - 0.8 * round_), 0.0) - wall
    hole = canvas.soft(inside)
    rim = np.exp(-np.abs(inside) / (0.12 * radius)) * (inside < 0)
    thick = canvas.film * np.exp(0.15 * canvas.noise("holes.film", 0.2 * min(canvas.side), 3.0)) * (1 + rng.uniform(0, 0.8) * rim)
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
    texture = canvas.noise("film.texture", size * rng.uniform(1, 4), slope, float(rng.choice([1.0, 1.0, 4.0])), rng.uniform(0, math.pi))
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
        level = _terraces(canvas.noise("film.level", 4 * size, 2.6) * rng.uniform(1, 3), 3 * canvas.step / (2 * size))
        base = base * np.exp(0.35 * np.clip(level, -4, 4))
        relief = 0.3 * relief + 0.25 * up * level
    elif kind == "wrinkles":
        angle = rng.uniform(0, math.pi)
        fold = np.zeros(canvas.shape)
        for n in range(int(rng.integers(1, 4))):
            wave = canvas.noise(f"film.ridge.{n}", 0.8 * size, 4.0, float(rng.uniform(1.5, 5)), angle + n * rng.uniform(0.5, 1.5))
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


def aggregates(canvas: Canvas) -> None:
    """Branched aggregates of small spheres, as soot or fumed silica: clusters that stuck to clusters (Meakin, 1983)."""
    rng = canvas.generator("aggregates")
    radius = max(canvas.size * 0.3, 3 * canvas.step)
    each = float(rng.integers(20, 200))
    count = min(_count(canvas, 2.2 * each * radius**2), max(2, int(2500 / each)))
    level = canvas.height.mean() if canvas.support != "none" else 0.0
    flat = float(rng.choice([0.3, 0.6, 1.0]))
    for place in canvas.sites("aggregates.at", count, 0.4):
        at = _cluster(rng, int(np.clip(each * rng.lognormal(-0.3, 0.8), 2, 400)), flat)
        size = np.clip(rng.lognormal(0, 0.4 * canvas.spread, len(at)), 0.5, 2)
        for k in np.argsort(at[:, 2]):
            r = radius * float(size[k])
            base = level + float(at[k, 2] - at[:, 2].min()) * radius * 0.8
            canvas.lay(place + at[k, :2] * radius, 1.1 * r, ellipsoid(r, r, r, 0.0, canvas.step), canvas.body, base=base)


def _cluster(rng: np.random.Generator, count: int, flat: float) -> Map:
    """Centres (count, 3) of unit spheres, joined pair by pair, then cluster by cluster; `flat` squeezes directions."""
    clusters = [np.zeros((1, 3)) for _ in range(count)]
    while len(clusters) > 1:
        joined = [_joined(rng, clusters[n], clusters[n + 1], flat) for n in range(0, len(clusters) - 1, 2)]
        clusters = joined + clusters[len(clusters) - len(clusters) % 2:]
    made = clusters[0]
    return made - made.mean(0)


def _joined(rng: np.random.Generator, one: Map, other: Map, flat: float) -> Map:
    best, widest = one, -1.0
    for _ in range(10):
        direction = rng.standard_normal(3) * np.array([1.0, 1.0, flat])
        direction /= np.linalg.norm(direction)
        # The outermost spheres along the way touch, so that arms reach out instead of filling in.
        start = one[int(np.argmax(one @ direction + 0.6 * rng.standard_normal(len(one))))]
        end = other[int(np.argmin(other @ direction + 0.6 * rng.standard_normal(len(other))))]
        moved = other - end + start + 1.8 * direction
        apart = float(np.min(np.linalg.norm(one[:, None] - moved[None], axis=-1)))
        if apart > widest:
            best, widest = np.concatenate([one, moved]), apart
        if apart > 1.6:
            break
    return best


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
    made = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-((f * length - 1) ** 2) / (2 * width**2)) * (f > 0), s=canvas.shape)
    wave: Map = made / made.std()
    return wave


def facets(canvas: Canvas) -> None:
    """Intergrown crystals with flat faces, grown to a closed crust, up to pyramids, blocks and needles."""
    rng = canvas.generator("facets")
    spread = max(canvas.spread, 0.35)
    kind = str(rng.choice(["blocks", "cubes", "needles", "plates"], p=[0.45, 0.25, 0.15, 0.15]))
    area = canvas.size**2 * {"blocks": 0.5, "cubes": 0.6, "needles": 0.9, "plates": 0.6}[kind]
    count = min(int(_count(canvas, area) * 1.6), 1800)
    base = canvas.height.mean()
    for place, wide in zip(canvas.sites("facets.at", count, 0.3), np.sort(_sizes(canvas, rng, count, spread)), strict=True):
        radius = 0.6 * wide
        lift = base + rng.uniform(-0.7, 0.3) * radius * canvas.aspect
        if kind == "needles":
            length = radius * rng.uniform(1.5, 5)
            shape, reach = rod(length, 0.3 * radius, 0.5 * radius * canvas.aspect, rng.uniform(0, math.pi), canvas.step, True), 1.1 * length
        elif kind == "plates":
            shape = plate(rng, radius, max(0.3 * radius * canvas.aspect, canvas.step * 0.3), canvas.step, 0.8, True)
            reach = 1.3 * radius
        else:
            shape = polyhedron(rng, radius, radius * canvas.aspect, int(rng.integers(4, 9)), canvas.step, kind == "cubes")
            reach = 1.9 * radius
        canvas.lay(place, reach, shape, canvas.body, base=float(lift))


def flakes(canvas: Canvas) -> None:
    """Thin flakes that overlap: polygons of one thickness each, folded and torn, as of clay or of layered crystals."""
    rng = canvas.generator("flakes")
    wide = max(2.5 * canvas.size, 15 * canvas.step)
    regular, ragged = bool(rng.random() < 0.3), float(rng.choice([0.0, 0.02, 0.06]))
    count = min(int(_count(canvas, 0.55 * wide**2) * 1.3), 700)
    sizes = np.clip(wide * rng.lognormal(0, max(canvas.spread, 0.3), count), 8 * canvas.step, 0.45 * min(canvas.side))
    layer = canvas.film * 0.25
    for place, size in zip(canvas.sites("flakes.at", count, float(rng.choice([0.0, 0.7]))), np.sort(sizes)[::-1], strict=True):
        number, thick = canvas.new_grain(canvas.body), layer * float(rng.integers(1, 7))
        lifted = max(thick, 0.02 * size * canvas.aspect) if canvas.support == "bulk" else thick
        shape = plate(rng, size / 2, lifted, canvas.step, 0.04 * canvas.aspect, regular, ragged)
        def thin(row: Map, col: Map, shape: Shape = shape, thick: float = thick) -> tuple[Map, Map, Map]:
            height, _, cover = shape(row, col)
            return height, np.full_like(cover, thick), cover
        canvas.lay(place, 0.62 * size, thin, canvas.body, grain=number)


def fracture(canvas: Canvas) -> None:
    """A fracture surface: ductile dimples, cleavage facets with river lines, or a rough intergranular break."""
    rng = canvas.generator("fracture")
    kind = str(rng.choice(["dimples", "cleavage", "intergranular"]))
    size = max(canvas.size, 8 * canvas.step)
    count = int(np.clip(canvas.area / size**2, 8, 4000))
    warp = (0.12 * size * canvas.noise("fracture.row", 0.8 * size, 2.5), 0.12 * size * canvas.noise("fracture.col", 0.8 * size, 2.5))
    at = canvas.sites("fracture.at", count if kind == "dimples" else max(8, count // 6), 0.3 if kind == "dimples" else 0.0)
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
        off = [coordinate + shift - at[cells.owner, axis] for axis, (coordinate, shift) in enumerate(zip((row, col), warp, strict=True))]
        off = [d - canvas.side[axis] * np.round(d / canvas.side[axis]) for axis, d in enumerate(off)]
        plane = lean[cells.owner, 0] * off[0] + lean[cells.owner, 1] * off[1]
        surface = 0.5 * landscape + plane + rng.normal(0, 0.06 * wide * canvas.aspect, len(at))[cells.owner]
        if kind == "cleavage":
            angle = rng.uniform(0, 2 * math.pi, len(at))
            along = np.cos(angle)[cells.owner] * off[0] + np.sin(angle)[cells.owner] * off[1]
            river = canvas.noise("fracture.river", 0.8 * size, 2.0) * 0.9 + along / (0.5 * size)
            surface = surface + 0.1 * size * canvas.aspect * _terraces(river, 0.15)
        else:
            # Grains that were torn out or left standing: hipped roofs and pits, whose faces meet at the borders.
            steep = rng.normal(0, 0.9, len(at)) * canvas.aspect
            cap = wide * rng.uniform(0.12, 0.5, len(at))
            lean = lean / max(canvas.aspect, 0.1)
            tilted = (lean[cells.owner, 0] * off[0] + lean[cells.owner, 1] * off[1]) * np.clip(cells.gap / (0.15 * wide), 0, 1)
            surface = landscape + steep[cells.owner] * np.minimum(cells.gap, cap[cells.owner]) + 0.5 * canvas.aspect * tilted
        surface = canvas.smooth(surface, 1.2 * canvas.step)
    canvas.height += surface + max(canvas.roughness, 0.03) * 0.1 * size * canvas.noise("fracture.rough", 0.25 * size, 2.0)
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
                canvas.lay(place - np.array([warp[0].mean(), warp[1].mean()]), 1.3 * r, ellipsoid(r, r, r, 0, canvas.step, 0.4), canvas.body)


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
    grainy = 0.03 * tall * canvas.noise("tracks.rough", 0.15 * pitch, 1.6) if rng.random() < 0.6 else np.zeros(canvas.shape)
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


def vesicles(canvas: Canvas) -> None:
    """Closed shells with what they hold: membranes, granules and smaller shells, stained as in a biological section."""
    rng = canvas.generator("vesicles")
    wide = max(2 * canvas.size, 16 * canvas.step)
    count = min(_count(canvas, 0.8 * wide**2), 500)
    wall = max(0.04 * wide, 1.4 * canvas.step)
    sizes = np.sort(np.clip(wide * rng.lognormal(0, max(canvas.spread, 0.35), count), 10 * canvas.step, 0.4 * min(canvas.side)))[::-1]
    thick = canvas.film
    for place, size in zip(canvas.sites("vesicles.at", count, 0.3), sizes, strict=True):
        lobes = rng.normal(0, 0.09, 4) / np.arange(2, 6), rng.uniform(0, 2 * math.pi, 4)
        fill, dimple = float(rng.uniform(-0.1, 0.6)), float(rng.uniform(0, 0.8))
        inner = rng.uniform(0.2, 0.8) if rng.random() < 0.4 else 0.0
        speck = rng.uniform(-0.6, 0.6, (int(rng.integers(0, 14)), 2)) * size / 2

        def shape(row: Map, col: Map, size: float = float(size), lobes: tuple[Map, Map] = lobes, fill: float = fill,
                  dimple: float = dimple, inner: float = inner, speck: Map = speck) -> tuple[Map, Map, Map]:
            far, around = np.hypot(row, col), np.arctan2(row, col)
            edge = size / 2 * (1 + sum(a * np.sin((k + 2) * around + p) for k, (a, p) in enumerate(zip(*lobes, strict=True))))
            inside = edge - far
            stain = np.exp(-(((inside - wall) / wall) ** 2))
            if inner:
                stain = stain + 0.8 * np.exp(-(((edge * inner - far) / wall) ** 2))
            for r, c in speck:
                stain = stain + 0.9 * np.exp(-(((row - r) ** 2 + (col - c) ** 2) / (1.5 * wall) ** 2) ** 2) * (inside > 2 * wall)
            dome = np.sqrt(np.clip(1 - (far / np.maximum(edge, 1e-9)) ** 2, 0, 1))
            top = size / 2 * canvas.aspect * (dome - dimple * np.exp(-((far / (0.6 * edge)) ** 2)) * 0.7) + 0.3 * wall * stain
            cover = np.clip(0.5 + inside / canvas.step, 0, 1)
            return np.maximum(top, 0.05 * size), thick * (np.clip(fill, 0, 1) * 0.35 + 0.8 * np.clip(stain, 0, 1.3)), cover
        canvas.lay(place, 0.75 * size, shape, canvas.body)
    if canvas.support != "bulk":  # ribosomes, precipitates of the stain
        dots = canvas.noise("vesicles.grit", 0.8 * wall, 2.5)
        canvas.layer(canvas.body)[:] += 0.25 * thick * np.clip(dots - 1.4, 0, 1)


def mixed(canvas: Canvas) -> None:
    """One family on another: a polycrystal, a film, tracks or fibres that carry particles, aggregates or crystals."""
    rng = canvas.generator("mixed")
    below = str(rng.choice(["grains", "film", "holes", "fibres"]))
    above = str(rng.choice(["particles", "aggregates", "particles", "fibres" if below != "fibres" else "particles"]))
    if below in ("film", "fibres"):
        ground(canvas)
    FAMILIES[below](canvas)
    canvas.body = canvas.extra
    canvas.size *= float(rng.uniform(0.3, 0.9))
    canvas.coverage = min(canvas.coverage, 0.35)
    FAMILIES[above](canvas)


Family = Callable[[Canvas], None]
FAMILIES: dict[str, Family] = {
    "particles": particles, "spheres": spheres, "grains": grains, "fibres": fibres, "lamellae": lamellae, "holes": holes,
    "film": film, "aggregates": aggregates, "porous": porous, "facets": facets, "flakes": flakes, "fracture": fracture,
    "tracks": tracks, "vesicles": vesicles, "mixed": mixed,
}
# Families that are their own ground.
GROUNDLESS = frozenset({"grains", "lamellae", "holes", "porous", "fracture", "mixed"})
