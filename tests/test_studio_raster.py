"""The studio renderer: coverage, order, cut-outs, textures, light; a picture depends on its input alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.camera import Camera, look_at
from engine.errors import InputError
from engine.training.studio.lights import Glow, Lamp, Lights, light_matrix, news_studio, sphere_directions
from engine.training.studio.materials import Material
from engine.training.studio.renderer import Part, Renderer
from engine.training.studio.textures import dyed, muted, pack, read_texture, srgb_to_linear, studio_background

SIZE = 64
EVEN = Lights(lamps=(Lamp((0, 0, 1), (0, 0, 0)),), above=(0.4, 0.4, 0.4), below=(0.4, 0.4, 0.4))  # no shadows, no lamp
MATT = {"roughness": 1.0, "specular": 0.0}


def flat_camera(size: int = SIZE) -> Camera:
    """Looks along -Z from 10 m at a 2 m square round the origin."""
    return look_at((0, 0, 10), (0, 0, 0), size, 2 * float(np.arctan(0.1)))


def triangle(*points: tuple[float, float, float], name: str = "t", **material: object) -> tuple[Part, np.ndarray]:
    faces = np.array([[0, 1, 2]], np.int32)
    uv = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    return Part(name, faces, uv, faces, Material(**{**MATT, **material})), np.array(points, np.float32)  # type: ignore[arg-type]


def square(z: float = 0.0, half: float = 0.8, **material: object) -> tuple[Part, np.ndarray]:
    """A square facing +Z whose texture stands upright: uv (0, 0) at its lower left."""
    points = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    return Part("square", faces, uv, faces, Material(**{**MATT, **material})), points  # type: ignore[arg-type]


def paint(*scene: tuple[Part, np.ndarray], lights: Lights = EVEN, **options: object) -> tuple[np.ndarray, np.ndarray]:
    renderer = Renderer(flat_camera(), [part for part, _ in scene], lights, **options)  # type: ignore[arg-type]
    return renderer.render([points for _, points in scene])


def plain(red: int, green: int, blue: int, alpha: int = 255) -> np.ndarray:
    return np.full((8, 8, 4), (red, green, blue, alpha), np.uint8)


def test_a_triangle_covers_its_area() -> None:
    _, alpha = paint(triangle((-0.7, -0.6, 0), (0.8, -0.5, 0), (0.1, 0.75, 0)))
    exact = 0.5 * (1.5 * 1.35 - 0.8 * 0.1) / 4 * SIZE * SIZE  # half the cross product, of a 2 m square in pixels
    assert alpha.sum() / 255 == pytest.approx(exact, rel=0.01)


def test_every_sample_agrees_with_the_half_planes() -> None:
    part, points = triangle((-0.713, -0.611, 0.3), (0.82, -0.512, -0.2), (0.11, 0.757, 0.1))
    _, alpha = paint((part, points), supersample=1)
    pixel = flat_camera().project(points)[:, :2]
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    inside = np.ones((SIZE, SIZE), bool)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        (ax, ay), (bx, by) = pixel[a], pixel[b]
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) <= 0  # counterclockwise in a picture whose y points down
    assert ((alpha == 255) == inside).all() and inside.sum() > 500


def test_neighbours_leave_no_crack() -> None:
    _, alpha = paint(square(), supersample=2)
    assert (alpha[10:-10, 10:-10] == 255).all()


def test_what_is_nearer_hides_what_is_behind_in_either_order() -> None:
    near, far = square(0.5, 0.5, color=(1, 0, 0)), square(-0.5, 0.9, color=(0, 1, 0))
    one, _ = paint(near, far)
    other, _ = paint(far, near)
    assert (one == other).all()
    assert one[32, 32, 0] > 100 and one[32, 32, 1] == 0 and one[5, 32, 1] > 100


def test_faces_that_turn_away_are_left_out_unless_double_sided() -> None:
    away = ((-0.5, -0.5, 0.0), (0.0, 0.6, 0.0), (0.5, -0.5, 0.0))
    assert paint(triangle(*away))[1].max() == 0
    assert paint(triangle(*away, double_sided=True))[1].max() == 255


def test_textures_stand_upright() -> None:
    texture = np.zeros((64, 64, 4), np.uint8)
    texture[..., 3] = 255
    texture[:32, :32, 0] = 255  # red at the upper left, row 0 being the top
    texture[32:, 32:, 2] = 255  # blue at the lower right
    image, _ = paint(square(base_color_texture=texture))
    assert image[16, 16, 0] > 100 and image[16, 48, 0] == 0 and image[48, 48, 2] > 100 and image[48, 16].max() == 0


def test_texture_lookups_are_true_to_perspective() -> None:
    texture = np.zeros((64, 64, 4), np.uint8)
    texture[..., 3] = 255
    texture[:32, :, :3] = 255  # the half of larger v
    part, _ = square(base_color_texture=texture)
    ground = np.array([[-1, -1, 1], [1, -1, 1], [1, -1, -3], [-1, -1, -3]], np.float32)  # runs away from the eye
    camera = look_at((0, 1, 4), (0, -1, 0), SIZE, 0.9)
    image, _ = Renderer(camera, [part], EVEN, radius=6.0).render([ground])
    row = camera.project(np.array([[0.0, -1.0, -1.0]]))[0, 1]  # half way in the world
    assert image[int(row) - 2, 32, 0] > 100 and image[int(row) + 2, 32, 0] < 20


def test_cut_outs_show_what_is_behind_and_have_soft_edges() -> None:
    texture = plain(255, 255, 255)
    texture[:, :4, 3] = 0
    image, alpha = paint(
        square(-0.3, 0.9, color=(0, 1, 0)), square(0.3, 0.6, base_color_texture=texture, alpha_mode="cutout")
    )
    assert image[32, 20, 0] == 0 and image[32, 20, 1] > 100  # the hole
    assert image[32, 44, 0] > 100  # the solid half
    edge = image[32, 24:40, 0].astype(int)
    assert ((edge > 20) & (edge < 140)).any() and (np.diff(edge) >= 0).all()
    assert alpha[32, 20] == 255


def test_layers_blend_from_far_to_near_in_either_order() -> None:
    wall = square(-0.8, 0.9, color=(0.5, 0.5, 0.5))
    red = square(0.0, 0.7, color=(1, 0, 0), alpha_mode="blend", alpha=0.5)
    blue = square(0.4, 0.5, color=(0, 0, 1), alpha_mode="blend", alpha=0.5)
    one, _ = paint(wall, red, blue)
    other, _ = paint(blue, wall, red)
    assert (one == other).all()
    pixel = srgb_to_linear(one[32, 32] / 255)
    light = pixel[1] / 0.125  # green is the wall alone, seen through two halves
    np.testing.assert_allclose(pixel / light, [0.375, 0.125, 0.625], atol=0.02)


def test_a_layer_behind_a_solid_part_is_hidden_and_one_in_the_air_shows_in_alpha() -> None:
    solid, veil = square(0.3, 0.5, color=(0, 1, 0)), square(0.0, 0.9, color=(1, 0, 0), alpha_mode="blend", alpha=0.5)
    image, alpha = paint(solid, veil)
    assert image[32, 32, 0] == 0 and image[6, 32, 0] > 50
    assert abs(int(alpha[6, 32]) - 128) <= 1 and alpha[32, 32] == 255


def test_the_background_is_kept_where_nobody_stands() -> None:
    background = studio_background(SIZE, 1)
    image, alpha = paint(triangle((-0.3, -0.3, 0), (0.3, -0.3, 0), (0, 0.3, 0)), background=background)
    away = alpha == 0
    assert away.mean() > 0.8 and np.abs(image[away].astype(int) - background[away]).max() <= 1


def sphere(radius: float, centre: tuple[float, float, float], rings: int = 24) -> tuple[np.ndarray, np.ndarray]:
    theta, phi = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    points = np.array([[np.sin(t) * np.cos(p), np.cos(t), np.sin(t) * np.sin(p)] for t in theta for p in phi])
    faces = []
    for i in range(rings):
        for j in range(2 * rings):
            a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
            faces += [[a, b, a + 2 * rings], [b, b + 2 * rings, a + 2 * rings]]
    return (points * radius + centre).astype(np.float32), np.array(faces, np.int32)


def ball(radius: float, centre: tuple[float, float, float], **material: object) -> tuple[Part, np.ndarray]:
    points, faces = sphere(radius, centre)
    surface = Material(**{**MATT, **material})  # type: ignore[arg-type]
    return Part("ball", faces, np.zeros((1, 2), np.float32), np.zeros_like(faces), surface), points


def test_the_side_in_shadow_is_darker_and_skin_bleeds_red() -> None:
    lights = Lights(lamps=(Lamp((-1, 0, 0.4), (0.8, 0.8, 0.8)),), above=(0.05, 0.05, 0.05), below=(0.05, 0.05, 0.05))
    matt, _ = paint(ball(0.8, (0, 0, 0)), lights=lights)
    skin, _ = paint(ball(0.8, (0, 0, 0), skin=1.0), lights=lights)
    assert matt[32, 16].min() > matt[32, 48].max() + 60
    assert int(skin[32, 42, 0]) > int(skin[32, 42, 2]) + 8  # past the shadow's edge
    assert abs(int(matt[32, 42, 0]) - int(matt[32, 42, 2])) <= 1


def test_a_part_throws_its_shadow_and_closes_the_sky() -> None:
    wall, ball_ = square(-0.4, 0.95), ball(0.2, (-0.3, 0.3, 0.2))
    lamp = Lights(
        lamps=(Lamp((-1, 1, 1), (0.9, 0.9, 0.9), softness=0.05),), above=(0.1, 0.1, 0.1), below=(0.1, 0.1, 0.1)
    )
    image, _ = paint(wall, ball_, lights=lamp)
    x, y, _ = flat_camera().project(np.array([[0.3, -0.3, -0.4]]))[0]  # where the ball's centre falls on the wall
    assert image[int(y), int(x), 0] < image[int(y), 5, 0] - 60
    grid = np.linspace(-0.95, 0.95, 20)
    points = np.array([[a, b, -0.4] for b in grid for a in grid], np.float32)
    corner = [(r * 20 + c) for r in range(19) for c in range(19)]
    faces = np.array([[k, k + 1, k + 21] for k in corner] + [[k, k + 21, k + 20] for k in corner], np.int32)
    fine = Part(
        "wall", faces, np.zeros((1, 2), np.float32), np.zeros_like(faces), Material(roughness=1.0, specular=0.0)
    )
    sky = Lights(
        lamps=EVEN.lamps, glows=(Glow((0, 0, 1), (0.5, 0.5, 0.5)),), above=(0.2, 0.2, 0.2), below=(0.2, 0.2, 0.2)
    )
    open_, _ = paint((fine, points), lights=sky)
    closed, _ = paint((fine, points), ball(0.5, (0, 0, 0.15)), lights=sky)
    beside = (32, 51)  # just past the ball's outline
    assert int(closed[beside][0]) < int(open_[beside][0]) - 8


def test_a_wet_surface_mirrors_the_lamp_even_where_it_is_clear() -> None:
    lights = Lights(lamps=(Lamp((0, 0, 1), (0.8, 0.8, 0.8)),), above=(0, 0, 0), below=(0, 0, 0))
    image, _ = paint(ball(0.6, (0, 0, 0), alpha_mode="blend", wet=True, alpha=0.0, specular=0.5), lights=lights)
    assert image[32, 32].min() > 120 and image[32, 18].max() < 40


def test_skin_in_the_key_light_is_bright_but_never_clipped() -> None:
    image, alpha = paint(ball(0.8, (0, 0, 0), color=(0.6, 0.4, 0.3), skin=1.0, roughness=0.45), lights=news_studio())
    assert 150 < image[alpha == 255].max() < 250


def test_a_picture_depends_on_its_vertices_alone() -> None:
    part, points = ball(0.5, (0, 0, 0), skin=1.0, alpha_mode="blend", alpha=0.7)
    floor, ground = square(-0.6, 0.9, base_color_texture=plain(120, 90, 60))
    renderer = Renderer(flat_camera(), [part, floor], news_studio(), studio_background(SIZE, 2))
    first, cover = renderer.render([points, ground])
    moved, _ = renderer.render([points + np.float32(0.1), ground])
    again, cover_again = renderer.render([points, ground])
    assert (first == again).all() and (cover == cover_again).all() and (moved != first).any()
    other = Renderer(flat_camera(), [part, floor], news_studio(), studio_background(SIZE, 2))
    assert (other.render([points, ground])[0] == first).all()


def test_a_small_step_makes_a_small_change() -> None:
    texture = np.random.default_rng(0).integers(0, 255, (256, 256, 4)).astype(np.uint8)
    texture[..., 3] = 255
    part, points = square(base_color_texture=texture)
    renderer = Renderer(flat_camera(), [part], EVEN)
    one, _ = renderer.render([points])
    other, _ = renderer.render([points + np.array([0.002, 0, 0], np.float32)])  # a sixteenth of a pixel
    inner = np.s_[12:-12, 12:-12]
    assert np.abs(one[inner].astype(int) - other[inner]).mean() < 2.0


def test_mip_levels_keep_colour_clean_of_invisible_texels() -> None:
    texture = plain(200, 40, 40)
    texture[:, ::2] = (0, 255, 0, 0)  # invisible green
    bank = pack([texture])
    first, height, width = bank.levels[0, 1]
    level = bank.texels[first : first + height * width]
    assert (np.abs(level[:, :3].astype(int) - (200, 40, 40)).max() <= 2) and (
        np.abs(level[:, 3].astype(int) - 128) <= 1
    ).all()
    assert bank.counts[0] == 4


def test_directions_are_even_and_light_maps_hold_the_sphere() -> None:
    directions = sphere_directions(24)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(directions.mean(0), 0, atol=0.03)
    centre = np.array([0.1, 1.4, 0.2])
    for direction in directions:
        matrix = light_matrix(direction, centre, 0.8, 100)
        on = centre + 0.79 * directions
        mapped = on @ matrix[:, :3].T + matrix[:, 3]
        assert mapped[:, :2].min() >= 0 and mapped[:, :2].max() <= 100
        nearer = (centre + 0.1 * direction) @ matrix[:, :3].T + matrix[:, 3]
        assert nearer[2] == pytest.approx(0.1, abs=1e-4)  # grows towards the light


def test_dye_keeps_light_and_dark_and_spares_linen() -> None:
    texture = plain(40, 42, 44)
    texture[:2], texture[6:] = (60, 62, 64, 255), (230, 230, 235, 128)
    out = dyed(texture, (0.05, 0.02, 0.01), spared=0.25)
    middle = srgb_to_linear(out[4, 4, :3] / 255)
    np.testing.assert_allclose(middle, (0.05, 0.02, 0.01), atol=0.001)
    assert (out[0, 0, :3] > out[4, 4, :3]).all() and (out[7, 7] == texture[7, 7]).all()
    flat = dyed(texture[:6], (0.05, 0.02, 0.01), contrast=0.0)
    assert np.ptp(flat[..., 0]) == 0
    assert np.ptp(muted(texture, 1.0)[0, 0, :3]) == 0 and (muted(texture, 0.0) == texture).all()


def test_no_backdrop_shines_through_a_cut_out_before_a_wall() -> None:
    texture = plain(90, 60, 40)
    texture = np.tile(texture, (10, 10, 1))  # about a texel and a half to a sample: between two mip levels
    texture[..., 3] = np.random.default_rng(1).integers(0, 255, texture.shape[:2])
    wall, hair = square(-0.3, 0.9), square(0.3, 0.4, base_color_texture=texture, alpha_mode="cutout", cut=0.55)
    _, alpha = paint(wall, hair)
    assert (alpha[10:-10, 10:-10] == 255).all()


def test_backgrounds_are_out_of_focus_and_repeat() -> None:
    one = studio_background(128, 5)
    assert one.shape == (128, 128, 3) and (one == studio_background(128, 5)).all()
    assert (one != studio_background(128, 6)).any()
    steps = np.abs(np.diff(one.astype(int), axis=0)).max()
    assert steps < 40 and one.std() > 5


def test_a_broken_texture_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "skin.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"skin\.png: texture: expected a readable picture file"):
        read_texture(path)


def test_shading_once_a_pixel_agrees_with_shading_more_samples() -> None:
    texture = np.random.default_rng(3).integers(60, 200, (16, 16, 4)).astype(np.uint8)
    texture[..., 3] = 255
    scene = square(-0.4, 0.9, base_color_texture=texture), ball(0.5, (0.1, 0.1, 0.0), skin=1.0, roughness=0.5)
    coarse, _ = paint(*scene, lights=news_studio(), supersample=2)
    fine, _ = paint(*scene, lights=news_studio(), supersample=5)
    assert np.abs(coarse.astype(int) - fine).mean() < 2.0


def test_a_background_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"studio: background: expected \(64, 64, 3\) uint8, got \(32, 32, 3\) uint8"):
        Renderer(flat_camera(), [square()[0]], EVEN, studio_background(32))
