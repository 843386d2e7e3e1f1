"""Solids of metal and rubber on a grey ground, ray cast: in the spirit of CLEVR (Johnson et al., CVPR 2017).

Every solid is convex, so a ray meets it in one interval. Intervals give visibility, soft shadows (light fades with the
length of the way through a solid) and the one reflection that metal shows. P rays, M objects; light.py has the units.
"""

import numpy as np
from numpy.typing import NDArray

from curate.corpora.renders.light import Floats, dot, mixed, picture, rays, unit
from curate.corpora.renders.scene import Scene, build

_FAR = 1e6
_BEVEL = 12  # power that rounds the normals at edges: the higher, the sharper
_UP_31 = np.array([[0], [0], [1]], np.float32)


def draw(rng: np.random.Generator, _index: int, *, size: int) -> NDArray[np.uint8]:
    """Image (size, size, 3); what is seen does not depend on the size."""
    scene = build(rng)
    stage = scene.stage

    def trace(across_P: Floats, down_P: Floats) -> Floats:
        ray_3P = unit(rays(stage.axes_33, stage.lens, across_P, down_P))
        return _seen(scene, stage.camera_3[:, None], ray_3P, bounces=1)

    return picture(trace, size=size)


def _seen(scene: Scene, origin_3P: Floats, ray_3P: Floats, *, bounces: int) -> Floats:
    """The light that comes back along rays of length 1 from one origin, or one each."""
    near_MP, far_MP = _intervals(scene, origin_3P, ray_3P)
    near_MP = np.where((far_MP > near_MP) & (near_MP > 1e-3), near_MP, _FAR)
    hit_P = near_MP.argmin(axis=0)
    way_P = np.take_along_axis(near_MP, hit_P[None], axis=0)[0]
    ground_P = np.where(ray_3P[2] < -1e-4, -origin_3P[2] / np.minimum(ray_3P[2], -1e-4), _FAR)
    solid_P = np.flatnonzero(way_P < ground_P)
    way_P = np.minimum(way_P, ground_P)
    point_3P = origin_3P + np.minimum(way_P, 200) * ray_3P
    normal_3P = np.repeat(_UP_31, ray_3P.shape[1], axis=1)
    colour_3P = np.repeat(scene.stage.ground_3[:, None], ray_3P.shape[1], axis=1)
    metal_P = np.zeros(ray_3P.shape[1], bool)
    hit_S = hit_P[solid_P]
    normal_3P[:, solid_P] = _normals(scene, point_3P[:, solid_P], hit_S)
    colour_3P[:, solid_P], metal_P[solid_P] = scene.colour_3M[:, hit_S], scene.metal_M[hit_S]

    light_3P = _lit(scene, point_3P, normal_3P, ray_3P, colour_3P=colour_3P, solid_P=solid_P, metal_P=metal_P)
    mirror_P = np.flatnonzero(metal_P)
    if bounces and len(mirror_P):
        light_3P[:, mirror_P] += _mirrored(
            scene, point_3P[:, mirror_P], normal_3P[:, mirror_P], ray_3P[:, mirror_P], colour_3P[:, mirror_P]
        )
    fog_P = (way_P / 26) ** 2
    fog_P /= 1 + fog_P
    return mixed(light_3P, fog_P, _studio(scene, ray_3P))


def _intervals(scene: Scene, origin_3P: Floats, ray_3P: Floats) -> tuple[Floats, Floats]:
    """Where rays enter and leave every object, (M, P) each; out of the order where they miss it."""
    shape = len(scene.half_M), ray_3P.shape[1]
    near_MP, far_MP = np.empty(shape, np.float32), np.empty(shape, np.float32)
    start = 0
    for count, solid in zip(scene.counts, (_sphere, _cylinder, _cube), strict=True):
        some = slice(start, start + count)
        start += count
        if count:
            o_3MP = origin_3P[:, None] - scene.centre_3M[:, some, None]
            turn_2M1 = scene.turn_2M[:, some, None]
            near_MP[some], far_MP[some] = solid(o_3MP, ray_3P[:, None], scene.half_M[some, None], turn_2M1)
    return near_MP, far_MP


def _sphere(o_3MP: Floats, d_31P: Floats, half_M1: Floats, _turn: Floats) -> tuple[Floats, Floats]:
    along_MP = dot(o_3MP, d_31P)
    root_MP = np.sqrt(np.maximum(along_MP * along_MP - dot(o_3MP, o_3MP) + half_M1 * half_M1, 0))
    return -along_MP - root_MP, root_MP - along_MP


def _cylinder(o_3MP: Floats, d_31P: Floats, half_M1: Floats, _turn: Floats) -> tuple[Floats, Floats]:
    square_1P = np.maximum(dot(d_31P[:2], d_31P[:2]), 1e-9)
    along_MP = dot(o_3MP[:2], d_31P[:2])
    beyond_MP = dot(o_3MP[:2], o_3MP[:2]) - half_M1 * half_M1
    root_MP = np.sqrt(np.maximum(along_MP * along_MP - square_1P * beyond_MP, 0)) / square_1P
    middle_MP = -along_MP / square_1P
    near_MP, far_MP = _slab(o_3MP[2], d_31P[2], half_M1)
    return np.maximum(near_MP, middle_MP - root_MP), np.minimum(far_MP, middle_MP + root_MP)


def _cube(o_3MP: Floats, d_31P: Floats, half_M1: Floats, turn_2M1: Floats) -> tuple[Floats, Floats]:
    cos_M1, sin_M1 = turn_2M1
    near_MP, far_MP = _slab(o_3MP[2], d_31P[2], half_M1)
    for x_M1, y_M1 in ((cos_M1, sin_M1), (-sin_M1, cos_M1)):
        enter_MP, leave_MP = _slab(x_M1 * o_3MP[0] + y_M1 * o_3MP[1], x_M1 * d_31P[0] + y_M1 * d_31P[1], half_M1)
        near_MP, far_MP = np.maximum(near_MP, enter_MP), np.minimum(far_MP, leave_MP)
    return near_MP, far_MP


def _slab(o_MP: Floats, d_MP: Floats, half_M1: Floats) -> tuple[Floats, Floats]:
    inverse_MP = 1 / np.where(np.abs(d_MP) < 1e-7, 1e-7, d_MP)
    middle_MP, reach_MP = -o_MP * inverse_MP, half_M1 * np.abs(inverse_MP)
    return middle_MP - reach_MP, middle_MP + reach_MP


def _normals(scene: Scene, point_3S: Floats, hit_S: NDArray[np.intp]) -> Floats:
    """Outward normals of the objects hit; at the edges of cubes and cylinders they turn gradually."""
    x_S, y_S, z_S = (point_3S - scene.centre_3M[:, hit_S]) / scene.half_M[hit_S]
    cos_S, sin_S = scene.turn_2M[:, hit_S]
    kind_S = np.searchsorted(np.cumsum(scene.counts), hit_S, side="right")
    round_S = np.sqrt(x_S * x_S + y_S * y_S) ** (_BEVEL - 1)
    along_S, across_S = cos_S * x_S + sin_S * y_S, cos_S * y_S - sin_S * x_S
    along_S, across_S, upward_S = (each * np.abs(each) ** (_BEVEL - 1) for each in (along_S, across_S, z_S))
    choices = (
        (x_S, y_S, z_S),
        (x_S * round_S, y_S * round_S, upward_S),
        (cos_S * along_S - sin_S * across_S, sin_S * along_S + cos_S * across_S, upward_S),
    )
    return unit(np.array([np.choose(kind_S, axis) for axis in zip(*choices, strict=True)]))


def _lit(
    scene: Scene,
    point_3P: Floats,
    normal_3P: Floats,
    ray_3P: Floats,
    *,
    colour_3P: Floats,
    solid_P: NDArray[np.intp],
    metal_P: NDArray[np.bool_],
) -> Floats:
    """Lamp with soft shadows, fill light and sky, by Lambert and Blinn and Phong."""
    lamp_3P = scene.stage.lamp_3[:, None] - point_3P
    square_P = dot(lamp_3P, lamp_3P)
    lamp_3P /= np.sqrt(square_P)
    bright_P = (dot(scene.stage.lamp_3, scene.stage.lamp_3) / square_P) * _reaches(scene, point_3P, lamp_3P)
    open_P = _open(scene, point_3P, normal_3P)
    lambert_P = bright_P * np.maximum(dot(normal_3P, lamp_3P), 0)
    fill_P = np.maximum(dot(normal_3P, scene.stage.fill_3[:, None]), 0)
    around_P = open_P * (0.16 + 0.10 * normal_3P[2] + 0.22 * fill_P)
    light_3P: Floats = colour_3P * (around_P + scene.stage.lamp_colour_3[:, None] * (0.95 * lambert_P))
    light_3P[:, metal_P] *= 0.35

    between_3S = unit(lamp_3P[:, solid_P] - ray_3P[:, solid_P])
    gloss_S = np.maximum(dot(normal_3P[:, solid_P], between_3S), 0) ** 16
    shine_S = np.where(metal_P[solid_P], 1.6 * gloss_S**6, 0.10 * gloss_S) * bright_P[solid_P]
    light_3P[:, solid_P] += scene.stage.lamp_colour_3[:, None] * shine_S.astype(np.float32)
    return light_3P


def _reaches(scene: Scene, point_3P: Floats, lamp_3P: Floats) -> Floats:
    """Share of the lamp that is seen: the penumbra widens with the distance from what casts it."""
    near_MP, far_MP = _intervals(scene, point_3P, lamp_3P)
    near_MP = np.maximum(near_MP, 0)
    through_MP = ((far_MP - near_MP) / (0.06 + 0.25 * near_MP)).clip(0, 1)
    seen_P: Floats = (1 - through_MP * through_MP * (3 - 2 * through_MP)).prod(axis=0)
    return seen_P


def _open(scene: Scene, point_3P: Floats, normal_3P: Floats) -> Floats:
    """Share of the surroundings that is seen, each object taken for a sphere (its own lies below the horizon)."""
    to_3MP = scene.centre_3M[:, :, None] - point_3P[:, None]
    square_MP = dot(to_3MP, to_3MP)
    facing_MP = np.maximum(dot(to_3MP, normal_3P[:, None]), 0) / np.sqrt(square_MP)
    hidden_MP = facing_MP * np.minimum(scene.half_M[:, None] ** 2 / square_MP, 1)
    seen_P: Floats = (1 - 0.9 * hidden_MP).prod(axis=0)
    return seen_P


def _mirrored(scene: Scene, point_3S: Floats, normal_3S: Floats, ray_3S: Floats, colour_3S: Floats) -> Floats:
    """What metal shows of its surroundings, tinted by it; less so at grazing angles (Schlick)."""
    facing_S = dot(normal_3S, ray_3S)
    mirror_3S = unit(ray_3S - 2 * facing_S * normal_3S)
    grazing_S = (1 - np.minimum(np.abs(facing_S), 1)) ** 5
    tint_3S = mixed(0.9 * (0.12 + 0.88 * colour_3S), grazing_S, np.float32(0.9))
    return tint_3S * _seen(scene, point_3S + 2e-3 * normal_3S, mirror_3S, bounces=0)


def _studio(scene: Scene, ray_3P: Floats) -> Floats:
    """What lies beyond the ground: a grey room, brighter above, and the lamp's large soft box."""
    lamp_3 = scene.stage.lamp_3 / np.sqrt(dot(scene.stage.lamp_3, scene.stage.lamp_3))
    box_P = np.maximum(dot(ray_3P, lamp_3[:, None]), 0) ** 24
    grey_P = 0.42 + 0.35 * ray_3P[2].clip(0, 1) + 2.0 * box_P
    light_3P: Floats = scene.stage.lamp_colour_3[:, None] * grey_P
    return light_3P
