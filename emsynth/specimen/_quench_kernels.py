"""Kernels of the melt-quench run: the Tersoff potential and velocity-Verlet steps in a cubic periodic box.

Arrays and plain numbers only. Energies in eV, lengths in Å, times in fs, masses in eV fs²/Å².
Potential: J. Tersoff, Phys. Rev. Lett. 61, 2879 (1988) and Phys. Rev. B 39, 5566 (1989).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_NEIGHBOURS = 96


@numba.njit(cache=True, fastmath=False)
def neighbours(position: Array, side: float, reach: float, listed: Integers, count: Integers) -> None:
    """All neighbours nearer than `reach`, by linked cells of at least that width (at least three per side)."""
    n = len(position)
    cells = max(3, int(side / reach))
    head = np.full(cells**3, -1, np.int64)
    after = np.full(n, -1, np.int64)
    own = np.empty((n, 3), np.int64)
    for i in range(n):
        for a in range(3):
            own[i, a] = int(np.floor(position[i, a] / side * cells)) % cells
        cell = (own[i, 0] * cells + own[i, 1]) * cells + own[i, 2]
        after[i] = head[cell]
        head[cell] = i
    for i in range(n):
        found = 0
        for step in range(27):
            x = (own[i, 0] + step // 9 - 1) % cells
            y = (own[i, 1] + step // 3 % 3 - 1) % cells
            z = (own[i, 2] + step % 3 - 1) % cells
            j = head[(x * cells + y) * cells + z]
            while j >= 0:
                squared = 0.0
                for a in range(3):
                    d = position[j, a] - position[i, a]
                    d -= side * round(d / side)
                    squared += d * d
                if j != i and squared < reach * reach and found < MOST_NEIGHBOURS:
                    listed[i, found] = j
                    found += 1
                j = after[j]
        count[i] = found


@numba.njit(cache=True, fastmath=False)
def tersoff(position: Array, side: float, listed: Integers, count: Integers, constants: Array, force: Array) -> float:
    """Energy in eV of all atoms; `force` (n, 3) in eV/Å is overwritten.

    `constants`: A, B, λ, μ, β, n, c, d, h, R, S of the publication.
    """
    a, b, lam, mu, beta, power, c, d, h, inner, outer = constants
    c2, d2 = c * c, d * d
    force[:] = 0.0
    energy = 0.0
    r = np.empty(MOST_NEIGHBOURS)
    unit = np.empty((MOST_NEIGHBOURS, 3))
    cut = np.empty(MOST_NEIGHBOURS)
    slope = np.empty(MOST_NEIGHBOURS)
    near = np.empty(MOST_NEIGHBOURS, np.int64)
    for i in range(len(position)):
        m = 0
        for entry in range(count[i]):
            j = listed[i, entry]
            squared = 0.0
            for x in range(3):
                unit[m, x] = position[j, x] - position[i, x]
                unit[m, x] -= side * round(unit[m, x] / side)
                squared += unit[m, x] * unit[m, x]
            if squared >= outer * outer:
                continue
            r[m] = math.sqrt(squared)
            for x in range(3):
                unit[m, x] /= r[m]
            cut[m], slope[m] = 1.0, 0.0
            if r[m] > inner:
                phase = math.pi * (r[m] - inner) / (outer - inner)
                cut[m] = 0.5 + 0.5 * math.cos(phase)
                slope[m] = -0.5 * math.pi / (outer - inner) * math.sin(phase)
            near[m] = j
            m += 1
        for p in range(m):
            zeta = 0.0
            for q in range(m):
                if q != p:
                    cosine = unit[p, 0] * unit[q, 0] + unit[p, 1] * unit[q, 1] + unit[p, 2] * unit[q, 2]
                    zeta += cut[q] * (1.0 + c2 / d2 - c2 / (d2 + (h - cosine) ** 2))
            repulsion = a * math.exp(-lam * r[p])
            attraction = b * math.exp(-mu * r[p])
            order, pull = 1.0, 0.0
            if zeta > 0.0:
                grown = (beta * zeta) ** power
                order = (1.0 + grown) ** (-0.5 / power)
                # dE/dζ, with db/dζ = -b (βζ)^n / (2 ζ (1 + (βζ)^n))
                pull = 0.25 * cut[p] * attraction * order * grown / (zeta * (1.0 + grown))
            energy += 0.5 * cut[p] * (repulsion - order * attraction)
            push = 0.5 * (slope[p] * (repulsion - order * attraction)
                          + cut[p] * (-lam * repulsion + mu * order * attraction))
            for x in range(3):
                force[i, x] += push * unit[p, x]
                force[near[p], x] -= push * unit[p, x]
            for q in range(m):
                if q == p:
                    continue
                cosine = unit[p, 0] * unit[q, 0] + unit[p, 1] * unit[q, 1] + unit[p, 2] * unit[q, 2]
                lowered = d2 + (h - cosine) ** 2
                angular = 1.0 + c2 / d2 - c2 / lowered
                bend = -2.0 * c2 * (h - cosine) / (lowered * lowered)
                for x in range(3):
                    on_p = pull * cut[q] * bend * (unit[q, x] - cosine * unit[p, x]) / r[p]
                    on_q = pull * (cut[q] * bend * (unit[p, x] - cosine * unit[q, x]) / r[q]
                                   + slope[q] * angular * unit[q, x])
                    force[near[p], x] -= on_p
                    force[near[q], x] -= on_q
                    force[i, x] += on_p + on_q
    return energy


@numba.njit(cache=True, fastmath=False)
def anneal(position: Array, velocity: Array, side: float, mass: float, constants: Array, targets: Array,
           step: float, memory: float) -> float:
    """Velocity-Verlet steps of `step` fs, one for each temperature in `targets` (K); returns the last energy in eV.

    The thermostat scales all velocities with the time constant `memory` fs (Berendsen et al., J. Chem. Phys. 81,
    3684 (1984)): it needs no random numbers, so a run is a function of its start.
    """
    n = len(position)
    skin = 0.6
    listed = np.empty((n, MOST_NEIGHBOURS), np.int64)
    count = np.empty(n, np.int64)
    force = np.zeros((n, 3))
    anchor = position.copy()
    neighbours(position, side, constants[10] + skin, listed, count)
    energy = tersoff(position, side, listed, count, constants, force)
    boltzmann = 8.617333e-5
    for target in targets:
        moved = 0.0
        for i in range(n):
            squared = 0.0
            for a in range(3):
                velocity[i, a] += 0.5 * step * force[i, a] / mass
                position[i, a] += step * velocity[i, a]
                squared += (position[i, a] - anchor[i, a]) ** 2
            moved = max(moved, squared)
        if moved > 0.25 * skin * skin:
            neighbours(position, side, constants[10] + skin, listed, count)
            anchor[:] = position
        energy = tersoff(position, side, listed, count, constants, force)
        kinetic = 0.0
        for i in range(n):
            for a in range(3):
                velocity[i, a] += 0.5 * step * force[i, a] / mass
                kinetic += 0.5 * mass * velocity[i, a] ** 2
        now = kinetic / (1.5 * n * boltzmann)
        velocity *= math.sqrt(max(0.0, 1.0 + step / memory * (target / max(now, 1e-9) - 1.0)))
    return energy
