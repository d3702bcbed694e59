"""Triangles to samples: projection, z-buffer, cut-out tests, sorted lists of see-through fragments.

It knows nothing about light or colour; of a texture it reads the alpha alone. "Nearness" is a depth that is linear on
the screen and grows towards the eye: 1/depth (1/m) in perspective, -depth (m) in a parallel projection.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.camera import Camera
from engine.training.studio.textures import FAST, sample_alpha

EMPTY = np.float32(-1e20)  # nearness of a sample that nothing covers
BEHIND = np.float32(-1e30)  # nearness of a vertex behind the near plane
NEAR = 0.05  # metres

OPAQUE, CUTOUT, BLEND = 0, 1, 2
# Columns of the table of surfaces that the kernels here read.
MODE, TEXTURE, DOUBLE_SIDED, CUT, BIAS, WET = 0, 1, 2, 3, 4, 5


def project(camera: Camera, points: np.ndarray, out: np.ndarray) -> None:
    """World points (V, 3) to `out` (V, 3) float32: sample x, sample y, nearness."""
    rows = np.ascontiguousarray(camera.view[:3], np.float64)
    _project(points, rows, camera.fx, camera.fy, camera.cx, camera.cy, out)


@njit(cache=True, nogil=True, fastmath=FAST)
def _project(points, view, fx, fy, cx, cy, out):  # type: ignore[no-untyped-def]
    for i in range(points.shape[0]):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        depth = -(view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3])
        if depth < NEAR:
            out[i, 0], out[i, 1], out[i, 2] = 0, 0, BEHIND
            continue
        out[i, 0] = cx + fx * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / depth
        out[i, 1] = cy - fy * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / depth
        out[i, 2] = 1 / depth


@njit(cache=True, nogil=True, fastmath=FAST)
def transform(points, matrix, out):  # type: ignore[no-untyped-def]
    """Points (V, 3) through an affine `matrix` (3, 4): the parallel projection of a light."""
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for k in range(3):
            out[i, k] = matrix[k, 0] * x + matrix[k, 1] * y + matrix[k, 2] * z + matrix[k, 3]


@njit(cache=True, nogil=True, fastmath=FAST)
def vertex_normals(vertices, faces, out):  # type: ignore[no-untyped-def]
    """Unit normals (V, 3): the sum of the surrounding faces' normals, weighted by area."""
    out[:] = 0
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in range(3):
            i = faces[f, corner]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2)
        if length > 0:
            out[i, 0] /= length
            out[i, 1] /= length
            out[i, 2] /= length


@njit(cache=True, nogil=True, fastmath=FAST)
def texture_lod(uv, f, area, levels, texture):  # type: ignore[no-untyped-def]
    """Mip level at which a texel of face `f`, of doubled screen `area`, is about one sample."""
    doubled = (uv[f, 2] - uv[f, 0]) * (uv[f, 5] - uv[f, 1]) - (uv[f, 4] - uv[f, 0]) * (uv[f, 3] - uv[f, 1])
    texels = abs(doubled) * levels[texture, 0, 1] * levels[texture, 0, 2]
    return 0.5 * np.log2(max(texels, 1e-12) / max(abs(area), 1e-9))


@njit(cache=True, nogil=True, fastmath=FAST)
def solid_faces(uv, face_surface, surfaces, texels, levels, out):  # type: ignore[no-untyped-def]
    """Marks in `out` (F,) the faces that no hole of their texture touches: they need no test, sample by sample."""
    for f in range(uv.shape[0]):
        row = face_surface[f]
        texture = int(surfaces[row, TEXTURE])
        out[f] = int(surfaces[row, MODE]) == OPAQUE
        if int(surfaces[row, MODE]) != CUTOUT or texture < 0:
            continue
        first, height, width = levels[texture, 0, 0], levels[texture, 0, 1], levels[texture, 0, 2]
        left, right = (
            int(np.floor(min(uv[f, 0], uv[f, 2], uv[f, 4]) * width)) - 2,
            int(max(uv[f, 0], uv[f, 2], uv[f, 4]) * width) + 2,
        )
        top, bottom = (
            int(np.floor(min(uv[f, 1], uv[f, 3], uv[f, 5]) * height)) - 2,
            int(max(uv[f, 1], uv[f, 3], uv[f, 5]) * height) + 2,
        )
        whole = True
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                whole = whole and texels[first + (y % height) * width + x % width, 3] >= 250
        out[f] = whole


@njit(cache=True, nogil=True, fastmath=FAST)
def draw(screen, faces, uv, face_surface, surfaces, solid, texels, levels, counts, cull, perspective, nearest, ids):  # type: ignore[no-untyped-def]
    """Draws opaque faces and the solid core of cut-out ones into `nearest` (H, W) and, where it has a size, `ids`.

    Args:
        screen: (V, 3) sample x, y, nearness; faces: (F, 3); uv: (F, 6) the three corners' (u, v), v down.
        face_surface: (F,) rows of `surfaces`, whose columns are named at the top of the module; solid: (F,) untested.
        cull: leave out faces that turn away, unless their surface is double-sided.
        ids: (H, W) int32, the face that each sample shows; (0, 0) for a depth map.
    """
    height, width = nearest.shape
    keep_ids = ids.shape[0] > 0
    for f in range(faces.shape[0]):
        row = face_surface[f]
        mode = int(surfaces[row, MODE])
        if mode == BLEND:
            continue
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        na, nb, nc = screen[a, 2], screen[b, 2], screen[c, 2]
        if na <= EMPTY or nb <= EMPTY or nc <= EMPTY:
            continue
        ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        cx, cy = screen[c, 0], screen[c, 1]
        left, right = int(np.ceil(min(ax, bx, cx) - 0.5)), int(np.floor(max(ax, bx, cx) - 0.5))
        top, bottom = int(np.ceil(min(ay, by, cy) - 0.5)), int(np.floor(max(ay, by, cy) - 0.5))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width - 1), min(bottom, height - 1)
        if left > right or top > bottom:
            continue
        area = (float(bx) - ax) * (float(cy) - ay) - (float(cx) - ax) * (float(by) - ay)
        if area == 0 or (cull and area > 0 and surfaces[row, DOUBLE_SIDED] == 0):
            continue  # y points down, so faces that look at the eye have a negative area
        inverse = 1 / area
        tested = not solid[f]
        texture = int(surfaces[row, TEXTURE])
        lod = texture_lod(uv, f, area, levels, texture) if tested else 0.0
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                wb = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) * inverse
                wc = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) * inverse
                wa = 1 - wb - wc
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                nearness = wa * na + wb * nb + wc * nc
                if nearness <= nearest[y, x]:
                    continue
                if tested:
                    if perspective:
                        wa, wb, wc = wa * na / nearness, wb * nb / nearness, wc * nc / nearness
                    u = wa * uv[f, 0] + wb * uv[f, 2] + wc * uv[f, 4]
                    v = wa * uv[f, 1] + wb * uv[f, 3] + wc * uv[f, 5]
                    if sample_alpha(texels, levels, counts, texture, u, v, lod) < surfaces[row, CUT]:
                        continue
                nearest[y, x] = nearness
                if keep_ids:
                    ids[y, x] = f


@njit(cache=True, nogil=True, fastmath=FAST)
def collect(  # type: ignore[no-untyped-def]
    screen, faces, uv, face_surface, surfaces, solid, texels, levels, counts, nearest, heads, links, pixels, owners,
    depths,
):  # fmt: skip
    """Gathers the see-through fragments before the z-buffer, per sample in a list sorted from far to near.

    Args:
        heads: (H * W,) int32, first fragment of each sample, -1 for none; links: (N,) the next one.
        pixels, owners: (N,) int32 sample and face of a fragment; depths: (N,) float32 its nearness.

    Returns: the number of fragments. One that finds no room is left out (N bounds the work of a frame).
    """
    height, width = nearest.shape
    heads[:] = -1
    count = 0
    for f in range(faces.shape[0]):
        row = face_surface[f]
        mode = int(surfaces[row, MODE])
        if solid[f]:
            continue
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        na, nb, nc = screen[a, 2], screen[b, 2], screen[c, 2]
        if na <= EMPTY or nb <= EMPTY or nc <= EMPTY:
            continue
        ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        cx, cy = screen[c, 0], screen[c, 1]
        left, right = int(np.ceil(min(ax, bx, cx) - 0.5)), int(np.floor(max(ax, bx, cx) - 0.5))
        top, bottom = int(np.ceil(min(ay, by, cy) - 0.5)), int(np.floor(max(ay, by, cy) - 0.5))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width - 1), min(bottom, height - 1)
        if left > right or top > bottom:
            continue
        area = (float(bx) - ax) * (float(cy) - ay) - (float(cx) - ax) * (float(by) - ay)
        if area == 0 or (area > 0 and surfaces[row, DOUBLE_SIDED] == 0):
            continue
        inverse = 1 / area
        texture = int(surfaces[row, TEXTURE])
        lod = texture_lod(uv, f, area, levels, texture) if texture >= 0 else 0.0
        bias, cut, wet = surfaces[row, BIAS], surfaces[row, CUT], surfaces[row, WET] > 0
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                wb = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) * inverse
                wc = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) * inverse
                wa = 1 - wb - wc
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                nearness = np.float32(wa * na + wb * nb + wc * nc)
                biased = nearness + bias * nearness * nearness  # a depth less by `bias` metres
                if biased <= nearest[y, x] or count >= links.shape[0]:
                    continue
                if texture >= 0 and not wet:
                    wa, wb, wc = wa * na / nearness, wb * nb / nearness, wc * nc / nearness
                    u = wa * uv[f, 0] + wb * uv[f, 2] + wc * uv[f, 4]
                    v = wa * uv[f, 1] + wb * uv[f, 3] + wc * uv[f, 5]
                    alpha = sample_alpha(texels, levels, counts, texture, u, v, lod)
                    if alpha < 0.02 or (mode == CUTOUT and alpha >= cut):
                        continue
                sample_index = y * width + x
                pixels[count], owners[count], depths[count] = sample_index, f, biased
                before, after = -1, heads[sample_index]
                while after >= 0 and depths[after] < biased:
                    before, after = after, links[after]
                links[count] = after
                if before < 0:
                    heads[sample_index] = count
                else:
                    links[before] = count
                count += 1
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def covered(ids, nearest, face_surface, factor, focal, pixels, owners, spans):  # type: ignore[no-untyped-def]
    """Lists what of `ids` (H, W) is to be shaded, and returns how many entries there are.

    Where the `factor` x `factor` samples of a pixel show one surface without a step in depth, they are shaded once:
    an entry is a block of `spans` x `spans` samples whose upper left one is `pixels`. `focal` is in samples.
    """
    height, width = ids.shape
    count = 0
    for top in range(0, height, factor):
        for left in range(0, width, factor):
            first = ids[top, left]
            near = far = nearest[top, left]
            whole = first >= 0
            if whole:
                for y in range(top, min(top + factor, height)):
                    for x in range(left, min(left + factor, width)):
                        face = ids[y, x]
                        whole = whole and face >= 0 and face_surface[face] == face_surface[first]
                        near, far = max(near, nearest[y, x]), min(far, nearest[y, x])
                whole = whole and (near - far) * focal < 8 * near  # steeper than eight samples: an edge
            if whole:
                pixels[count], spans[count] = top * width + left, factor
                owners[count] = ids[min(top + factor // 2, height - 1), min(left + factor // 2, width - 1)]
                count += 1
                continue
            for y in range(top, min(top + factor, height)):
                for x in range(left, min(left + factor, width)):
                    if ids[y, x] >= 0:
                        pixels[count], owners[count], spans[count] = y * width + x, ids[y, x], 1
                        count += 1
    return count
