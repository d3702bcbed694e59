"""The z-buffer against brute force, and the rules that keep neighbouring triangles from gaping or overlapping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.camera import Camera, look_at
from engine.rasterizer import EMPTY, SUBPIXELS, Raster, Rasterizer

SIZE = 24


def screen_camera(size: int = SIZE) -> Camera:
    """World x, y at z = -1 are pixels; y points up."""
    return Camera(size, size, 1.0, 1.0, 0.0, float(size), np.eye(4))


def at_pixels(points: np.ndarray, depth: np.ndarray | float = 1.0) -> np.ndarray:
    """World points (N, 3) that `screen_camera` sees at pixel positions (N, 2), `depth` metres away."""
    d = np.broadcast_to(np.asarray(depth, np.float64), (len(points),))
    return np.stack([points[:, 0] * d, (SIZE - points[:, 1]) * d, -d], axis=1).astype(np.float32)


def draw(vertices: np.ndarray, faces: list[tuple[int, int, int]], cull: bool = False) -> Raster:
    return Rasterizer(np.array(faces), len(vertices), SIZE, SIZE).draw(vertices, screen_camera(), cull)


def brute_force(raster: Raster, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth (H, W) of the nearest triangle, and which centres lie on an edge, where either answer is right."""
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    nearest, doubtful = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), bool)
    for face in faces:
        p = raster.screen[face] / SUBPIXELS
        sides = [
            (xs - p[a, 0]) * (p[b, 1] - p[a, 1]) - (ys - p[a, 1]) * (p[b, 0] - p[a, 0])
            for a, b in ((1, 2), (2, 0), (0, 1))
        ]
        area = sum(sides)
        if abs(area[0, 0]) < 1e-12:
            continue
        weights = np.stack(sides) / area
        inside = (weights > 0).all(axis=0)
        doubtful |= (np.abs(np.stack(sides)) < 1e-9).any(axis=0)
        inverse = np.tensordot(raster.inverse[face], weights, 1)
        nearest = np.where(inside & (inverse > nearest), inverse, nearest)
    return nearest, doubtful


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_nearest_triangle_wins(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-6, SIZE + 6, (3 * count, 2))
    faces = np.arange(3 * count).reshape(-1, 3)
    raster = draw(at_pixels(points, rng.uniform(0.5, 3.0, 3 * count)), [tuple(f) for f in faces])
    expected, doubtful = brute_force(raster, faces)
    sure = ~doubtful
    np.testing.assert_array_equal(raster.covered()[sure], expected[sure] > 0)
    np.testing.assert_allclose(raster.inverse_depth[sure], expected[sure], rtol=1e-4, atol=1e-5)
    assert set(np.unique(raster.triangle)) - {EMPTY} <= set(np.flatnonzero(raster.drawn))
    left, top, right, bottom = raster.box
    outside = raster.covered()
    outside[top:bottom, left:right] = False
    assert not outside.any()


@given(st.integers(0, 2**32 - 1), st.integers(3, 9), st.booleans())
def test_shared_edges_neither_gap_nor_overlap(seed: int, corners: int, on_centres: bool) -> None:
    """A polygon cut into a fan covers the same pixels, counted with sign, from whatever point the fan is spread.

    With `on_centres`, edges and corners run exactly through pixel centres.
    """
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    rim = SIZE / 2 + (SIZE / 2 - 2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    apexes = rng.uniform(2, SIZE - 2, (2, 2))
    if on_centres:
        rim, apexes = np.floor(rim) + 0.5, np.floor(apexes) + 0.5

    def winding(apex: np.ndarray) -> np.ndarray:
        points = at_pixels(np.concatenate([apex[None], rim]))
        total = np.zeros((SIZE, SIZE), int)
        for a in range(1, corners + 1):
            b = a % corners + 1
            total += draw(points, [(0, a, b)], cull=True).covered()
            total -= draw(points, [(0, b, a)], cull=True).covered()
        return total

    first, second = (winding(apex) for apex in apexes)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() <= 1


def test_pixel_centres_and_the_top_left_rule() -> None:
    """A square from centre to centre owns its top and left borders, not its bottom and right ones."""
    square = np.array([[2.5, 3.5], [6.5, 3.5], [6.5, 9.5], [2.5, 9.5]])
    covered = draw(at_pixels(square), [(0, 2, 1), (0, 3, 2)]).covered()
    expected = np.zeros((SIZE, SIZE), bool)
    expected[3:9, 2:6] = True
    np.testing.assert_array_equal(covered, expected)


def test_back_faces_are_culled_where_asked() -> None:
    triangle = at_pixels(np.array([[2.0, 2.0], [2.0, 20.0], [20.0, 20.0]]))  # counter-clockwise on the screen
    assert draw(triangle, [(0, 1, 2)], cull=True).covered().sum() > 100
    assert not draw(triangle, [(0, 2, 1)], cull=True).covered().any()
    assert draw(triangle, [(0, 2, 1)], cull=False).covered().sum() > 100


@pytest.mark.parametrize("bad", [(np.nan, 0, -1), (0, 0, 5), (np.inf, 0, -1), (1e30, 1e30, -1), (0, 0, 0)])
def test_what_cannot_be_drawn_is_dropped(bad: tuple[float, float, float]) -> None:
    good = at_pixels(np.array([[2.0, 2.0], [2.0, 20.0], [20.0, 20.0]]))
    vertices = np.concatenate([good, np.array([bad], np.float32)])
    raster = draw(vertices, [(0, 1, 3), (1, 2, 3), (0, 1, 2)])
    assert set(np.unique(raster.triangle)) == {EMPTY, 2}


def test_only_the_new_picture_is_left() -> None:
    rng = np.random.default_rng(3)
    faces = np.arange(30).reshape(-1, 3)
    pictures = [at_pixels(rng.uniform(0, SIZE, (30, 2)), rng.uniform(1, 2, 30)) for _ in range(4)]
    reused = Rasterizer(faces, 30, SIZE, SIZE)
    for vertices in [*pictures, np.full((30, 3), np.nan, np.float32), pictures[0]]:
        raster = reused.draw(vertices, screen_camera(), False)
        fresh = Rasterizer(faces, 30, SIZE, SIZE).draw(vertices, screen_camera(), False)
        np.testing.assert_array_equal(raster.triangle, fresh.triangle)
        np.testing.assert_array_equal(raster.inverse_depth, fresh.inverse_depth)


def test_barycentrics_lead_back_to_the_pixel() -> None:
    """The weighted corners of a pixel's triangle project onto the pixel's centre, at the pixel's depth."""
    rng = np.random.default_rng(5)
    vertices = rng.uniform(-1, 1, (60, 3)).astype(np.float32)
    camera = look_at((0.5, 0.3, 4.0), (0.0, 0.0, 0.0), 64, 0.6)
    rasterizer = Rasterizer(np.arange(60).reshape(-1, 3), 60, 64, 64)
    raster = rasterizer.draw(vertices, camera, cull=False)
    weights = rasterizer.barycentrics()
    ys, xs = np.nonzero(raster.covered())
    assert len(ys) > 500
    np.testing.assert_allclose(weights[ys, xs].sum(axis=1), 1.0, atol=1e-5)
    assert weights.min() > -1e-4
    points = np.einsum("nkc,nk->nc", vertices[rasterizer.faces[raster.triangle[ys, xs]]], weights[ys, xs])
    seen = camera.project(points)
    assert np.abs(seen[:, 0] - xs - 0.5).max() < 0.01
    assert np.abs(seen[:, 1] - ys - 0.5).max() < 0.01
    np.testing.assert_allclose(raster.depth()[ys, xs], seen[:, 2], rtol=1e-3)


def test_sizes_are_checked() -> None:
    rasterizer = Rasterizer(np.array([[0, 1, 2]]), 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="made for 3 vertices at 24x24"):
        rasterizer.draw(np.zeros((4, 3), np.float32), screen_camera())
    with pytest.raises(ValueError, match="not 3 at 25x25"):
        rasterizer.draw(np.zeros((3, 3), np.float32), screen_camera(25))
