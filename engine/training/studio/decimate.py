"""Thins a closed triangle mesh by half-edge collapses: what remains is a subset of the vertices, so attributes carry over by index."""

from __future__ import annotations

import heapq

import numpy as np


def collapse(vertices: np.ndarray, faces: np.ndarray, cost: np.ndarray, count: int) -> np.ndarray:
    """Faces (F', 3) after removing vertices, cheapest first, until `count` used ones are left.

    `cost` (V,) weighs each vertex's geometric error (metres); infinite keeps it. Each removal is a collapse into the
    neighbour that bends the surface least, allowed only where the mesh stays a manifold and no face turns over.
    """
    ring: dict[int, set[int]] = {}
    table = {i: tuple(int(v) for v in face) for i, face in enumerate(faces)}
    for i, face in table.items():
        for v in face:
            ring.setdefault(v, set()).add(i)

    def neighbours(v: int) -> set[int]:
        return {w for i in ring[v] for w in table[i]} - {v}

    def best(v: int) -> tuple[float, int]:
        choices = [(_bend(vertices, [table[i] for i in ring[v]], v, u), u) for u in neighbours(v)]
        error, into = min(choices)
        return error * cost[v], into

    heap = [(best(v)[0], v) for v in ring if np.isfinite(cost[v])]
    heapq.heapify(heap)
    while len(ring) > count and heap:
        guess, v = heapq.heappop(heap)
        if v not in ring:
            continue
        error, into = best(v)
        if error > guess * 1.01 + 1e-12:
            if np.isfinite(error):
                heapq.heappush(heap, (error, v))
            continue
        if not np.isfinite(error) or len(neighbours(v) & neighbours(into)) != 2:
            continue
        for i in ring.pop(v):
            for w in table[i]:
                if w != v:
                    ring[w].discard(i)
            if into in table[i]:
                del table[i]
            else:
                a, b, c = (into if w == v else w for w in table[i])
                table[i] = (a, b, c)
                for w in table[i]:
                    ring[w].add(i)
    return np.array([table[i] for i in sorted(table)], np.int64)


def _bend(vertices: np.ndarray, faces: list[tuple[int, ...]], v: int, u: int) -> float:
    """Largest distance of `v` from the faces that would replace its ring; infinite where one turns over or vanishes."""
    worst = 0.0
    for face in faces:
        if u in face:
            continue
        before = vertices[list(face)]
        after = vertices[[u if w == v else w for w in face]]
        n0 = np.cross(before[1] - before[0], before[2] - before[0])
        n1 = np.cross(after[1] - after[0], after[2] - after[0])
        length = np.sqrt(n1 @ n1)
        if length < 1e-12 or n0 @ n1 < 0.3 * length * np.sqrt(n0 @ n0):
            return np.inf
        worst = max(worst, abs(float(n1 @ (vertices[v] - after[0]))) / length)
    return worst + 1e-4 * float(np.linalg.norm(vertices[v] - vertices[u]))
