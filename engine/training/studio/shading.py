"""The kernels that light samples: what of the sky and the lamps a point sees, and what colour it then sends back.

All light is linear. It knows nothing about how a sample was found, nor what becomes of it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.training.studio.materials import (
    ALPHA,
    AO_MAP,
    BLUE,
    GREEN,
    HAIR,
    NORMAL_MAP,
    NORMAL_SCALE,
    RED,
    ROUGHNESS,
    SHEEN,
    SKIN,
    SPECULAR,
)
from engine.training.studio.raster import CUT, CUTOUT, MODE, OPAQUE, TEXTURE, WET
from engine.training.studio.textures import FAST, sample

GLARE = np.float32(8)  # how much brighter a lamp's face is than white paper that it lights


@njit(cache=True, nogil=True, fastmath=FAST)
def gather(vertices, normals, matrix, depth_map, direction, radiance, lift, bias, out):  # type: ignore[no-untyped-def]
    """Adds to `out` (V, 3) the light of one direction of the surroundings, where `depth_map` (S, S) lets it through."""
    size = depth_map.shape[0]
    for i in range(vertices.shape[0]):
        facing = normals[i, 0] * direction[0] + normals[i, 1] * direction[1] + normals[i, 2] * direction[2]
        if facing <= 0:
            continue
        x, y, z = vertices[i, 0] + lift * normals[i, 0], vertices[i, 1] + lift * normals[i, 1], vertices[i, 2]
        z += lift * normals[i, 2]
        mx = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3] - 0.5
        my = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3] - 0.5
        near = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3] + bias
        seen = np.float32(1)
        if 1 <= mx < size - 3 and 1 <= my < size - 3:
            x0, y0 = int(mx), int(my)
            fx, fy = mx - x0, my - y0
            seen = np.float32(0)
            for dy in range(-1, 3):  # a tent two texels wide
                wy = 1 - abs(dy - fy) * 0.5
                for dx in range(-1, 3):
                    wx = 1 - abs(dx - fx) * 0.5
                    if depth_map[y0 + dy, x0 + dx] <= near and wx > 0 and wy > 0:
                        seen += wx * wy * np.float32(0.25)
        for k in range(3):
            out[i, k] += facing * seen * radiance[k]


@njit(cache=True, nogil=True, fastmath=FAST)
def lit(x, y, z, nx, ny, nz, lx, ly, lz, matrix, depth_map, reach):  # type: ignore[no-untyped-def]
    """How much of a lamp the point sees, in [0, 1]: a tent of radius `reach` texels over the shadow map's answers.

    The map is compared with the plane of the surface (normal n, towards the lamp l), so that a slope does not shade
    itself; the plane's slope is bounded.
    """
    size = depth_map.shape[0]
    mx = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3] - np.float32(0.5)
    my = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3] - np.float32(0.5)
    near = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    texel = 1 / np.sqrt(matrix[0, 0] ** 2 + matrix[0, 1] ** 2 + matrix[0, 2] ** 2)
    level = max(abs(nx * lx + ny * ly + nz * lz), np.float32(0.25))
    slope_x = -(matrix[0, 0] * nx + matrix[0, 1] * ny + matrix[0, 2] * nz) * texel / level * texel
    slope_y = -(matrix[1, 0] * nx + matrix[1, 1] * ny + matrix[1, 2] * nz) * texel / level * texel
    bound = np.float32(1.5) * texel
    slope_x, slope_y = min(max(slope_x, -bound), bound), min(max(slope_y, -bound), bound)
    left, right = int(np.ceil(mx - reach)), int(np.floor(mx + reach))
    top, bottom = int(np.ceil(my - reach)), int(np.floor(my + reach))
    if left < 0 or top < 0 or right >= size or bottom >= size:
        return np.float32(1)
    total, passed = np.float32(0), np.float32(0)
    for row in range(top, bottom + 1):
        wy = reach - abs(row - my)
        plane = near + slope_y * (row - my) + np.float32(0.002)
        for column in range(left, right + 1):
            weight = wy * (reach - abs(column - mx))
            total += weight
            if depth_map[row, column] <= plane + slope_x * (column - mx):
                passed += weight
    return passed / max(total, np.float32(1e-6))


@njit(cache=True, nogil=True, fastmath=FAST)
def tone(x):  # type: ignore[no-untyped-def]
    """Linear up to 0.45, then a shoulder that never clips (C1)."""
    knee = np.float32(0.45)
    if x <= knee:
        return max(x, np.float32(0))
    room = np.float32(1) - knee
    return knee + room * (np.float32(1) - np.exp(-(x - knee) / room))


@njit(cache=True, nogil=True, fastmath=FAST)
def shade(  # type: ignore[no-untyped-def]
    pixels, owners, spans, count, width, screen, vertices, normals, ambient, faces, uv, face_surface, surfaces,
    texels, levels, counts, srgb, plain, eye, lamps, lamp_maps, lamp_matrices, mirrored, exposure, solid, out,
):  # fmt: skip
    """Shades samples `pixels` (N,) of faces `owners` (N,), blocks of `spans` (N,) samples a side.

    `out` (N, 4) becomes tone-mapped linear colour, premultiplied, and alpha, which is 1 where the samples are `solid`.
    `lamps` (L, 8) are the rows of `Lamp`, `lamp_maps` (L, S, S) and `lamp_matrices` (L, 3, 4) their shadow maps.
    """
    one, zero = np.float32(1), np.float32(0)
    bleed = (np.float32(0.34), np.float32(0.19), np.float32(0.13))  # how far light wraps round skin, by colour
    light = np.zeros(3, np.float32)
    shine = np.zeros(3, np.float32)
    normal = np.zeros(3, np.float32)
    for i in range(count):
        f = owners[i]
        row = face_surface[f]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        span = spans[i]
        px, py = (pixels[i] % width) + 0.5 * span, (pixels[i] // width) + 0.5 * span
        ax, ay, bx, by = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        cx, cy = screen[c, 0], screen[c, 1]
        area = (float(bx) - ax) * (float(cy) - ay) - (float(cx) - ax) * (float(by) - ay)
        wb = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / area * screen[b, 2]
        wc = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / area * screen[c, 2]
        wa = (1 - wb / screen[b, 2] - wc / screen[c, 2]) * screen[a, 2]
        wa, wb, wc = max(wa, 0.0), max(wb, 0.0), max(wc, 0.0)  # the middle of a block may lie just outside
        total = wa + wb + wc
        wa, wb, wc = np.float32(wa / total), np.float32(wb / total), np.float32(wc / total)

        x = wa * vertices[a, 0] + wb * vertices[b, 0] + wc * vertices[c, 0]
        y = wa * vertices[a, 1] + wb * vertices[b, 1] + wc * vertices[c, 1]
        z = wa * vertices[a, 2] + wb * vertices[b, 2] + wc * vertices[c, 2]
        turned = -one if area > 0 else one  # the inside of a double-sided surface
        for k in range(3):
            normal[k] = (wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]) * turned
        u = wa * uv[f, 0] + wb * uv[f, 2] + wc * uv[f, 4]
        v = wa * uv[f, 1] + wb * uv[f, 3] + wc * uv[f, 5]

        # The texture's own axes on the surface, for the normal map: dP/du and dP/dv of the flat triangle.
        hair = surfaces[row, HAIR]
        normal_map = int(surfaces[row, NORMAL_MAP])
        tx = ty = tz = sx = sy = sz = zero
        if normal_map >= 0:
            du1, dv1, du2, dv2 = uv[f, 2] - uv[f, 0], uv[f, 3] - uv[f, 1], uv[f, 4] - uv[f, 0], uv[f, 5] - uv[f, 1]
            sign = one if du1 * dv2 - du2 * dv1 > 0 else -one
            e1x, e2x = vertices[b, 0] - vertices[a, 0], vertices[c, 0] - vertices[a, 0]
            e1y, e2y = vertices[b, 1] - vertices[a, 1], vertices[c, 1] - vertices[a, 1]
            e1z, e2z = vertices[b, 2] - vertices[a, 2], vertices[c, 2] - vertices[a, 2]
            tx, ty, tz = sign * (dv2 * e1x - dv1 * e2x), sign * (dv2 * e1y - dv1 * e2y), sign * (dv2 * e1z - dv1 * e2z)
            sx, sy, sz = sign * (du1 * e2x - du2 * e1x), sign * (du1 * e2y - du2 * e1y), sign * (du1 * e2z - du2 * e1z)
            length = np.sqrt(tx * tx + ty * ty + tz * tz) + np.float32(1e-20)
            tx, ty, tz = tx / length, ty / length, tz / length
            length = np.sqrt(sx * sx + sy * sy + sz * sz) + np.float32(1e-20)
            sx, sy, sz = sx / length, sy / length, sz / length

        red, green, blue, alpha = one, one, one, one
        texture = int(surfaces[row, TEXTURE])
        footprint = abs((uv[f, 2] - uv[f, 0]) * (uv[f, 5] - uv[f, 1]) - (uv[f, 4] - uv[f, 0]) * (uv[f, 3] - uv[f, 1]))
        footprint = footprint * (span * span) / max(abs(area), 1e-9)  # texture area of a sample or block
        if texture >= 0:
            lod = 0.5 * np.log2(max(footprint * levels[texture, 0, 1] * levels[texture, 0, 2], 1e-12))
            red, green, blue, alpha = sample(texels, levels, counts, texture, u, v, lod, srgb)
        red, green, blue = red * surfaces[row, RED], green * surfaces[row, GREEN], blue * surfaces[row, BLUE]
        if normal_map >= 0:
            lod = 0.5 * np.log2(max(footprint * levels[normal_map, 0, 1] * levels[normal_map, 0, 2], 1e-12))
            mu, mv, mw, _ = sample(texels, levels, counts, normal_map, u, v, lod, plain)
            mu, mv = (2 * mu - one) * surfaces[row, NORMAL_SCALE], (2 * mv - one) * surfaces[row, NORMAL_SCALE]
            mw = max(2 * mw - one, np.float32(0.1))
            nx, ny, nz = normal[0], normal[1], normal[2]
            normal[0], normal[1] = mu * tx - mv * sx + mw * nx, mu * ty - mv * sy + mw * ny
            normal[2] = mu * tz - mv * sz + mw * nz
        length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + np.float32(1e-20)
        nx, ny, nz = normal[0] / length, normal[1] / length, normal[2] / length
        vx, vy, vz = eye[0] - x, eye[1] - y, eye[2] - z
        length = np.sqrt(vx * vx + vy * vy + vz * vz)
        vx, vy, vz = vx / length, vy / length, vz / length
        facing = max(nx * vx + ny * vy + nz * vz, np.float32(0.02))

        opening = one
        ao_map = int(surfaces[row, AO_MAP])
        if ao_map >= 0:
            lod = 0.5 * np.log2(max(footprint * levels[ao_map, 0, 1] * levels[ao_map, 0, 2], 1e-12))
            opening, _, _, _ = sample(texels, levels, counts, ao_map, u, v, lod, plain)

        skin, roughness, specular = surfaces[row, SKIN], surfaces[row, ROUGHNESS], surfaces[row, SPECULAR]
        wet = surfaces[row, WET] > 0
        fresnel = (one - facing) ** 5
        mirror_share = np.float32(0.03) if wet else specular
        mirror_share += (one - mirror_share) * fresnel * (one - roughness) * np.float32(0.6) * (one - hair)
        for k in range(3):
            light[k] = (wa * ambient[a, k] + wb * ambient[b, k] + wc * ambient[c, k]) * opening
            shine[k] = light[k] * mirror_share
            shine[k] += light[k] * surfaces[row, SHEEN] * (one - facing) ** 3
        strand, sparkle, brightest = zero, zero, one
        if hair > 0:  # strands hang: they run down along the surface, and bright ones of the texture shine more
            sparkle = min((red + green + blue) * np.float32(10), np.float32(1.2))
            brightest = max(red, green, blue, np.float32(1e-4))
            sx, sy, sz = -ny * nx, one - ny * ny, -ny * nz
            strand = np.sqrt(sx * sx + sy * sy + sz * sz) + np.float32(1e-6)
            sx, sy, sz = sx / strand, sy / strand, sz / strand
        gloss = 2 / max(roughness**4, np.float32(1e-4)) - 2  # Blinn-Phong power of a GGX roughness
        lift = np.float32(0.004) + np.float32(0.004) * skin
        for n in range(lamps.shape[0]):
            lx, ly, lz = lamps[n, 0], lamps[n, 1], lamps[n, 2]
            cosine = nx * lx + ny * ly + nz * lz
            if cosine < -0.45 * skin and hair == 0:
                continue
            seen = lit(x + lift * nx, y + lift * ny, z + lift * nz, nx, ny, nz, lx, ly, lz, lamp_matrices[n],
                       lamp_maps[n], lamps[n, 6])  # fmt: skip
            if seen <= 0:
                continue
            hx, hy, hz = lx + vx, ly + vy, lz + vz
            length = np.sqrt(hx * hx + hy * hy + hz * hz) + np.float32(1e-20)
            hx, hy, hz = hx / length, hy / length, hz / length
            if hair > 0:
                along = (sx * hx + sy * hy + sz * hz) * strand  # where no direction is known the highlight is round
                across = np.sqrt(max(one - along * along, zero)) * max(nx * hx + ny * hy + nz * hz, zero) ** 2
                lobe = hair * specular * (across**40 + np.float32(0.5) * across**8) * sparkle * max(cosine, zero) * seen
            else:
                bright = max(nx * hx + ny * hy + nz * hz, zero)
                glance = (one - max(vx * hx + vy * hy + vz * hz, zero)) ** 5
                lobe = (specular + (one - specular) * glance) * (gloss + 8) * np.float32(0.125) * bright**gloss
                lobe *= max(cosine, zero) * seen
            if wet:
                lobe = zero
            for k in range(3):
                glint = lobe
                if hair > 0:  # half of what a strand sends back has passed through it
                    own = red if k == 0 else (green if k == 1 else blue)
                    glint *= np.float32(0.4) + np.float32(0.6) * own / brightest
                wrap = bleed[k] * skin + np.float32(0.25) * hair
                diffuse = max((cosine + wrap) / ((one + wrap) * (one + wrap)), zero)
                through = seen ** (one / (one + 2 * bleed[k] * skin)) if skin > 0 else seen
                light[k] += lamps[n, 3 + k] * diffuse * through
                shine[k] += lamps[n, 3 + k] * glint
        if wet:  # a mirror that shows the lamps as soft discs
            for n in range(mirrored.shape[0]):
                rx, ry, rz = 2 * facing * nx - vx, 2 * facing * ny - vy, 2 * facing * nz - vz
                edge = (one - mirrored[n, 7]) * np.float32(0.5)
                part = (rx * mirrored[n, 0] + ry * mirrored[n, 1] + rz * mirrored[n, 2] - mirrored[n, 7] + edge) / (
                    2 * edge
                )
                part = min(max(part, zero), one)
                for k in range(3):
                    shine[k] += mirrored[n, 3 + k] * part * part * (3 - 2 * part) * specular * GLARE
        alpha *= surfaces[row, ALPHA]
        mode = int(surfaces[row, MODE])
        if solid or mode == OPAQUE or (mode == CUTOUT and alpha >= surfaces[row, CUT]):
            alpha = one
        keep = one if wet else alpha
        if wet:  # body and reflection come through different alphas; what lies below the cornea mirrors little
            clear = one - np.float32(0.85) * alpha
            out[i, 0] = tone(red * light[0] * exposure) * alpha + tone(shine[0] * clear * exposure)
            out[i, 1] = tone(green * light[1] * exposure) * alpha + tone(shine[1] * clear * exposure)
            out[i, 2] = tone(blue * light[2] * exposure) * alpha + tone(shine[2] * clear * exposure)
        else:
            out[i, 0] = tone((red * light[0] + shine[0]) * exposure) * keep
            out[i, 1] = tone((green * light[1] + shine[1]) * exposure) * keep
            out[i, 2] = tone((blue * light[2] + shine[2]) * exposure) * keep
        out[i, 3] = alpha
