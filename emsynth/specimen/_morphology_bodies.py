"""Families of single bodies laid on a ground: particles, beads, fibres, aggregates, crystals, flakes, vesicles.

Shapes, sizes and shares are ours. Each function draws on a `Canvas`; random numbers come from streams that are named
after the family.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen._morphology_canvas import Canvas, Map, Shape
from emsynth.specimen._morphology_ground import count_of, sizes_of
from emsynth.specimen._morphology_shapes import ellipsoid, plate, polyhedron, rod


def _body(canvas: Canvas, rng: np.random.Generator, wide: float, kind: str) -> tuple[float, Shape]:
    """Reach and shape of one particle of a `wide` Å."""
    radius = wide / 2
    tall = radius * canvas.aspect
    if kind == "round":
        long = radius * rng.lognormal(0.0, 0.18)
        return 1.7 * max(long, radius), ellipsoid(
            long, radius, tall, rng.uniform(0, math.pi), canvas.step, float(rng.choice([0.0, 0.3, 0.6]))
        )
    if kind == "rod":
        length = radius * float(rng.uniform(2.0, 7.0))
        return length * 1.1, rod(
            length, 0.5 * radius, 0.5 * tall, rng.uniform(0, math.pi), canvas.step, bool(rng.random() < 0.4)
        )
    if kind == "plate":
        return 1.5 * radius, plate(
            rng, radius, max(0.25 * tall, canvas.step * 0.2), canvas.step, 0.15, rng.random() < 0.5
        )
    return 1.9 * radius, polyhedron(rng, radius, tall, int(rng.integers(5, 12)), canvas.step, kind == "cube")


def particles(canvas: Canvas) -> None:
    """Particles of log-normal size: round, faceted, cubes, rods or plates, alone or in clouds."""
    rng = canvas.generator("particles")
    kinds = ["round", "faceted", "cube", "rod", "plate"]
    main = str(rng.choice(kinds, p=[0.35, 0.3, 0.12, 0.13, 0.1]))
    other, share = str(rng.choice(kinds)), float(rng.choice([0.0, 0.0, 0.15, 0.4]))
    lean = 2.5 if main == "rod" else 0.8
    mean = lean * (canvas.size / 2) ** 2 * math.exp(2 * canvas.spread**2) * math.pi / 2.2
    count = count_of(canvas, mean)
    at = canvas.sites("particles.at", count, float(rng.choice([0.0, 0.4, 0.85])))
    # Large ones first, so that small ones lie on them.
    for place, wide in zip(at, np.sort(sizes_of(canvas, rng, count))[::-1], strict=True):
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
            canvas.lay(
                nudge,
                1.1 * r,
                ellipsoid(r, r, r, 0.0, canvas.step),
                canvas.body,
                base=_floor_of(canvas, place) + level * 1.633 * radius,
            )
    for place in canvas.sites("spheres.stray", int(rng.integers(0, 12))):
        r = radius * float(rng.uniform(0.8, 1.5))
        canvas.lay(place, 1.1 * r, ellipsoid(r, r, r, 0.0, canvas.step), canvas.body)


def _floor_of(canvas: Canvas, place: NDArray[np.float64]) -> float:
    # Of the ground, which is nearly flat: what has been laid since must not lift a bead of the same layer.
    return float(np.quantile(canvas.height[::17, ::17], 0.02)) if canvas.support != "none" else 0.0


def _raft(canvas: Canvas, radius: float, owner: NDArray[np.int64], angle: Map, shift: Map) -> Map:
    """Places of close-packed discs; each zone has a lattice of its own, and none is nearer than a diameter to
    another.
    """
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


def _is_free(
    place: NDArray[np.float64],
    cell: tuple[int, int],
    taken: dict[tuple[int, int], list[NDArray[np.float64]]],
    least: float,
    side: NDArray[np.float64],
    a: float,
) -> bool:
    cells = np.maximum((side // a).astype(int) + 1, 1)
    around = {
        ((cell[0] + i) % cells[0], (cell[1] + j) % cells[1]) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2)
    }
    for key in around:
        for other in taken.get((int(key[0]), int(key[1])), []):
            apart = place - other
            apart -= side * np.round(apart / side)
            if float(np.hypot(*apart)) < least:
                return False
    return True


def fibres(canvas: Canvas) -> None:
    """A mat of curved fibres, tubes or wires, which cross at many levels; some aligned."""
    rng = canvas.generator("fibres")
    wide = canvas.size * 0.5
    aligned, main = float(rng.choice([0.0, 0.3, 1.2])), rng.uniform(0, math.pi)
    length = float(rng.uniform(0.5, 1.4)) * min(canvas.side)
    curl = float(rng.choice([0.15, 0.5, 1.2])) * rng.uniform(0.5, 1.5)
    hollow = float(rng.choice([0.0, 0.0, 0.55, 0.75]))
    count = count_of(canvas, wide * length, 260)
    deep = canvas.size * (2.5 if canvas.support == "bulk" else 0.6)
    starts = canvas.sites("fibres.at", count)
    widths = np.clip(wide * rng.lognormal(0, canvas.spread, count), 2.2 * canvas.step, 0.12 * min(canvas.side))
    levels = np.sort(rng.uniform(0, deep, count))
    tone = float(rng.choice([0.0, 0.0, 0.12]))
    for start, width, level in zip(starts, widths, levels, strict=True):
        toward = main + rng.normal(0, 0.25) if rng.random() < aligned else rng.uniform(0, 2 * math.pi)
        path = _path(
            rng,
            start,
            toward,
            length * rng.uniform(0.4, 1.3),
            max(0.35 * width, 1.5 * canvas.step),
            curl / canvas.size * 0.3,
        )
        beads = width / 2 * (1 + tone * np.sin(np.arange(len(path)) * rng.uniform(0.1, 0.5)))
        _sweep(canvas, path, beads, level, hollow)


def _path(
    rng: np.random.Generator, start: NDArray[np.float64], toward: float, length: float, stride: float, curl: float
) -> Map:
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
        seen[r - half : r + half + 1, c - half : c + half + 1] = True
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
    thickness = (
        2 * dome - 2 * hollow * r * np.sqrt(np.maximum(1 - q / max(hollow, 1e-6) ** 2, 0)) if hollow else 2 * dome
    )
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


def aggregates(canvas: Canvas) -> None:
    """Branched aggregates of small spheres, as soot or fumed silica: clusters that stuck to clusters (Meakin, 1983)."""
    rng = canvas.generator("aggregates")
    radius = max(canvas.size * 0.3, 3 * canvas.step)
    each = float(rng.integers(20, 200))
    count = min(count_of(canvas, 2.2 * each * radius**2), max(2, int(2500 / each)))
    level = canvas.height.mean() if canvas.support != "none" else 0.0
    flat = float(rng.choice([0.3, 0.6, 1.0]))
    for place in canvas.sites("aggregates.at", count, 0.4):
        at = _cluster(rng, int(np.clip(each * rng.lognormal(-0.3, 0.8), 2, 400)), flat)
        size = np.clip(rng.lognormal(0, 0.4 * canvas.spread, len(at)), 0.5, 2)
        for k in np.argsort(at[:, 2]):
            r = radius * float(size[k])
            base = level + float(at[k, 2] - at[:, 2].min()) * radius * 0.8
            canvas.lay(
                place + at[k, :2] * radius, 1.1 * r, ellipsoid(r, r, r, 0.0, canvas.step), canvas.body, base=base
            )


def _cluster(rng: np.random.Generator, count: int, flat: float) -> Map:
    """Centres (count, 3) of unit spheres, joined pair by pair, then cluster by cluster; `flat` squeezes directions."""
    clusters = [np.zeros((1, 3)) for _ in range(count)]
    while len(clusters) > 1:
        joined = [_joined(rng, clusters[n], clusters[n + 1], flat) for n in range(0, len(clusters) - 1, 2)]
        clusters = joined + clusters[len(clusters) - len(clusters) % 2 :]
    made = clusters[0]
    centred: Map = made - made.mean(0)
    return centred


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


def facets(canvas: Canvas) -> None:
    """Intergrown crystals with flat faces, grown to a closed crust, up to pyramids, blocks and needles."""
    rng = canvas.generator("facets")
    spread = max(canvas.spread, 0.35)
    kind = str(rng.choice(["blocks", "cubes", "needles", "plates"], p=[0.45, 0.25, 0.15, 0.15]))
    area = canvas.size**2 * {"blocks": 0.5, "cubes": 0.6, "needles": 0.9, "plates": 0.6}[kind]
    count = min(int(count_of(canvas, area) * (1.6 if canvas.support == "bulk" else 0.7)) + 1, 1800)
    base = canvas.height.mean()
    for place, wide in zip(
        canvas.sites("facets.at", count, 0.3), np.sort(sizes_of(canvas, rng, count, spread)), strict=True
    ):
        radius = 0.6 * wide
        lift = base + rng.uniform(-0.7, 0.3) * radius * canvas.aspect
        if kind == "needles":
            length = radius * rng.uniform(1.5, 5)
            shape, reach = (
                rod(length, 0.3 * radius, 0.5 * radius * canvas.aspect, rng.uniform(0, math.pi), canvas.step, True),
                1.1 * length,
            )
        elif kind == "plates":
            shape = plate(rng, radius, max(0.3 * radius * canvas.aspect, canvas.step * 0.3), canvas.step, 0.8, True)
            reach = 1.3 * radius
        else:
            shape = polyhedron(
                rng, radius, radius * canvas.aspect, int(rng.integers(4, 9)), canvas.step, kind == "cubes"
            )
            reach = 1.9 * radius
        canvas.lay(place, reach, shape, canvas.body, base=float(lift))


def flakes(canvas: Canvas) -> None:
    """Thin flakes that overlap: polygons of one thickness each, folded and torn, as of clay or of layered crystals."""
    rng = canvas.generator("flakes")
    wide = max(2.5 * canvas.size, 15 * canvas.step)
    regular, ragged = bool(rng.random() < 0.3), float(rng.choice([0.0, 0.02, 0.06]))
    count = min(int(count_of(canvas, 0.55 * wide**2) * 1.3), 700)
    sizes = np.clip(wide * rng.lognormal(0, max(canvas.spread, 0.3), count), 8 * canvas.step, 0.45 * min(canvas.side))
    layer = canvas.film * 0.25
    for place, size in zip(
        canvas.sites("flakes.at", count, float(rng.choice([0.0, 0.7]))), np.sort(sizes)[::-1], strict=True
    ):
        number, thick = canvas.new_grain(canvas.body), layer * float(rng.integers(1, 7))
        lifted = max(thick, 0.02 * size * canvas.aspect) if canvas.support == "bulk" else thick
        shape = plate(rng, size / 2, lifted, canvas.step, 0.04 * canvas.aspect, regular, ragged)

        def thin(row: Map, col: Map, shape: Shape = shape, thick: float = thick) -> tuple[Map, Map, Map]:
            height, _, cover = shape(row, col)
            return height, np.full_like(cover, thick), cover

        canvas.lay(place, 0.62 * size, thin, canvas.body, grain=number)


def vesicles(canvas: Canvas) -> None:
    """Closed shells with what they hold: membranes, granules and smaller shells, stained as in a biological section."""
    rng = canvas.generator("vesicles")
    wide = max(2 * canvas.size, 16 * canvas.step)
    count = min(count_of(canvas, 0.8 * wide**2), 500)
    wall = max(0.04 * wide, 1.4 * canvas.step)
    sizes = np.sort(
        np.clip(wide * rng.lognormal(0, max(canvas.spread, 0.35), count), 10 * canvas.step, 0.4 * min(canvas.side))
    )[::-1]
    thick = canvas.film
    for place, size in zip(canvas.sites("vesicles.at", count, 0.3), sizes, strict=True):
        lobes = rng.normal(0, 0.09, 4) / np.arange(2, 6), rng.uniform(0, 2 * math.pi, 4)
        fill, dimple = float(rng.uniform(-0.1, 0.6)), float(rng.uniform(0, 0.8))
        inner = rng.uniform(0.2, 0.8) if rng.random() < 0.4 else 0.0
        speck = rng.uniform(-0.6, 0.6, (int(rng.integers(0, 14)), 2)) * size / 2

        def shape(
            row: Map,
            col: Map,
            size: float = float(size),
            lobes: tuple[Map, Map] = lobes,
            fill: float = fill,
            dimple: float = dimple,
            inner: float = inner,
            speck: Map = speck,
        ) -> tuple[Map, Map, Map]:
            far, around = np.hypot(row, col), np.arctan2(row, col)
            edge = (
                size
                / 2
                * (1 + sum(a * np.sin((k + 2) * around + p) for k, (a, p) in enumerate(zip(*lobes, strict=True))))
            )
            inside = edge - far
            stain = np.exp(-(((inside - wall) / wall) ** 2))
            if inner:
                stain = stain + 0.8 * np.exp(-(((edge * inner - far) / wall) ** 2))
            for r, c in speck:
                stain = stain + 0.9 * np.exp(-((((row - r) ** 2 + (col - c) ** 2) / (1.5 * wall) ** 2) ** 2)) * (
                    inside > 2 * wall
                )
            dome = np.sqrt(np.clip(1 - (far / np.maximum(edge, 1e-9)) ** 2, 0, 1))
            top = (
                size / 2 * canvas.aspect * (dome - dimple * np.exp(-((far / (0.6 * edge)) ** 2)) * 0.7)
                + 0.3 * wall * stain
            )
            cover = np.clip(0.5 + inside / canvas.step, 0, 1)
            return (
                np.maximum(top, 0.05 * size),
                thick * (np.clip(fill, 0, 1) * 0.35 + 0.8 * np.clip(stain, 0, 1.3)),
                cover,
            )

        canvas.lay(place, 0.75 * size, shape, canvas.body)
    if canvas.support != "bulk":  # ribosomes, precipitates of the stain
        dots = canvas.noise("vesicles.grit", 0.8 * wall, 2.5)
        canvas.layer(canvas.body)[:] += 0.25 * thick * np.clip(dots - 1.4, 0, 1)
