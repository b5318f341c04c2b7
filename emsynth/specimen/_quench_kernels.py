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


@numba.njit(cache=True, fastmath=False)
def valence(position: Array, side: float, bonded: Integers, bonds: Integers, length: Array, cosine: Array,
            stiffness: Array, listed: Integers, count: Integers, force: Array) -> float:
    """Energy in eV of a network of given bonds; `force` (n, 3) in eV/Å is overwritten.

    Harmonic in each bond's length, in the cosine of each angle between two bonds, and, of atoms in `listed` (neither
    bonded nor bonded to the same atom), in how much nearer they are than a contact distance.

    bonded, length : (n, 4) the other atom of each bond and the bond's length at rest in Å; bonds : (n,) how many.
    cosine : (n,) cosine of the angles at rest.
    stiffness : stretch (eV/Å²), bend (eV), repel (eV/Å²), contact distance (Å).
    """
    stretch, bend, repel, contact = stiffness
    force[:] = 0.0
    energy = 0.0
    unit = np.empty((4, 3))
    r = np.empty(4)
    for i in range(len(position)):
        for p in range(bonds[i]):
            squared = 0.0
            for x in range(3):
                unit[p, x] = position[bonded[i, p], x] - position[i, x]
                unit[p, x] -= side * round(unit[p, x] / side)
                squared += unit[p, x] * unit[p, x]
            r[p] = math.sqrt(squared)
            longer = r[p] - length[i, p]
            # Half of each bond: its other atom has it as well.
            energy += 0.25 * stretch * longer * longer
            for x in range(3):
                unit[p, x] /= r[p]
                force[i, x] += stretch * longer * unit[p, x]
        for p in range(bonds[i]):
            for q in range(p):
                dot = unit[p, 0] * unit[q, 0] + unit[p, 1] * unit[q, 1] + unit[p, 2] * unit[q, 2]
                off = dot - cosine[i]
                energy += 0.5 * bend * off * off
                for x in range(3):
                    on_p = -bend * off * (unit[q, x] - dot * unit[p, x]) / r[p]
                    on_q = -bend * off * (unit[p, x] - dot * unit[q, x]) / r[q]
                    force[bonded[i, p], x] += on_p
                    force[bonded[i, q], x] += on_q
                    force[i, x] -= on_p + on_q
        for entry in range(count[i]):
            squared = 0.0
            for x in range(3):
                unit[0, x] = position[listed[i, entry], x] - position[i, x]
                unit[0, x] -= side * round(unit[0, x] / side)
                squared += unit[0, x] * unit[0, x]
            if squared < contact * contact:
                apart = math.sqrt(squared)
                deep = contact - apart
                energy += 0.25 * repel * deep * deep
                for x in range(3):
                    force[i, x] -= repel * deep * unit[0, x] / apart
    return energy


@numba.njit(cache=True, fastmath=False)
def strangers(position: Array, side: float, reach: float, bonded: Integers, bonds: Integers, listed: Integers,
              count: Integers) -> None:
    """Neighbours nearer than `reach` that are neither bonded nor bonded to the same atom."""
    neighbours(position, side, reach, listed, count)
    for i in range(len(position)):
        kept = 0
        for entry in range(count[i]):
            j = listed[i, entry]
            known = False
            for p in range(bonds[i]):
                if bonded[i, p] == j:
                    known = True
                for q in range(bonds[bonded[i, p]]):
                    if bonded[bonded[i, p], q] == j:
                        known = True
            if not known:
                listed[i, kept] = j
                kept += 1
        count[i] = kept


@numba.njit(cache=True, fastmath=False)
def relax(position: Array, side: float, bonded: Integers, bonds: Integers, length: Array, cosine: Array,
          stiffness: Array, steps: int) -> float:
    """Bring a network to rest by fast inertial relaxation (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)).

    Arguments as of `valence`; returns the energy in eV.
    """
    n = len(position)
    skin = 0.5
    listed = np.empty((n, MOST_NEIGHBOURS), np.int64)
    count = np.empty(n, np.int64)
    force = np.zeros((n, 3))
    velocity = np.zeros((n, 3))
    anchor = position.copy()
    strangers(position, side, stiffness[3] + skin, bonded, bonds, listed, count)
    energy = valence(position, side, bonded, bonds, length, cosine, stiffness, listed, count, force)
    step, mixing, since = 0.02, 0.1, 0
    for _ in range(steps):
        power, speed, pull = 0.0, 0.0, 0.0
        for i in range(n):
            for x in range(3):
                power += force[i, x] * velocity[i, x]
                speed += velocity[i, x] * velocity[i, x]
                pull += force[i, x] * force[i, x]
        if power > 0.0:
            velocity *= 1.0 - mixing
            velocity += force * (mixing * math.sqrt(speed / max(pull, 1e-30)))
            since += 1
            if since > 5:
                step, mixing = min(1.1 * step, 0.15), 0.99 * mixing
        else:
            velocity[:] = 0.0
            step, mixing, since = 0.5 * step, 0.1, 0
        moved = 0.0
        for i in range(n):
            squared = 0.0
            for x in range(3):
                velocity[i, x] += step * force[i, x]
                position[i, x] += min(max(step * velocity[i, x], -0.05), 0.05)
                squared += (position[i, x] - anchor[i, x]) ** 2
            moved = max(moved, squared)
        if moved > 0.25 * skin * skin:
            strangers(position, side, stiffness[3] + skin, bonded, bonds, listed, count)
            anchor[:] = position
        energy = valence(position, side, bonded, bonds, length, cosine, stiffness, listed, count, force)
    return energy
