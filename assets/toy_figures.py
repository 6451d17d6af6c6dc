"""Toys of plants, animals and figures. Each draws its sizes and optional parts independently."""

from __future__ import annotations

import numpy as np

from .primitives import X, arc, block, box, cylinder, ellipsoid, lathe, tube
from .toy_draw import BOTH, Draw, Parts, corner_legs, paint


def cactus(d: Draw) -> Parts:
    radius, height = d.between(0.1, 0.16), d.between(0.6, 0.9)
    green = d.of_hue(0.25, 0.42)
    dome = [(radius, height - radius), (radius * 0.75, height - radius * 0.35), (0.0, height)]
    parts: Parts = [(lathe([(radius * 0.85, 0.0), *dome]), green)]
    turn = d.between(0, 6.28)
    for k in range(d.whole(1, 3)):
        reach, low, up = d.between(0.2, 0.3), height * d.between(0.25, 0.55), d.between(0.15, 0.4)
        side = 1 if k == 0 else -1 if k == 1 else 0
        angle = turn if side else turn + np.pi / 2
        out = side * reach if side else reach
        path = [(0, 0, low), (out * 0.8, 0, low), (out, 0, low + 0.08), (out, 0, low + 0.08 + up)]
        parts.append((tube(path, d.between(0.06, 0.075)).turned(angle), green))
    if d.chance(0.6):
        pot = d.between(0.17, 0.25)
        parts.append((cylinder((0, 0, -0.2), pot * d.between(0.65, 0.9), 0.26, pot), d.colour()))
        if d.chance(0.5):
            parts.append((cylinder((0, 0, 0.0), pot + 0.04, 0.08), d.colour()))
    else:
        parts.append((cylinder((0, 0, -0.06), d.between(0.25, 0.38), 0.08), d.of_hue(0.1, 0.15)))
    if d.chance(0.5):
        bloom = d.of_hue(0.85, 1.0)
        parts.append((ellipsoid((0, 0, height), (0.1, 0.1, 0.065), 8), bloom))
    if d.chance(0.4):
        ring = cylinder((0, 0, height * d.between(0.6, 0.75)), radius + 0.02, 0.075)
        parts.append((ring, d.colour()))
    return parts


def dog(d: Draw) -> Parts:
    long, thick, legs = d.between(0.26, 0.4), d.between(0.1, 0.16), d.between(0.16, 0.36)
    fur, z = d.colour(), legs + thick * 0.8
    round_ = d.chance()
    body = (long, thick, thick)
    parts: Parts = [
        (
            ellipsoid((0, 0, z), np.multiply(body, 1.1)) if round_ else block((0, 0, z), np.multiply(body, 2)),
            fur,
        )
    ]
    x = long * (0.65 if round_ else 0.82)
    parts += paint(corner_legs(x, thick * 0.6, 0.045, z, round_=d.chance()), fur if d.chance() else d.colour())
    neck, head = d.between(0.04, 0.3), d.between(0.1, 0.15)
    at = np.array([long + 0.06, 0.0, z + thick * 0.6 + neck])
    parts.append((tube([(long * 0.7, 0, z), at], 0.065), fur))
    face = d.colour()
    parts.append((ellipsoid(at, (head,) * 3) if d.chance() else block(at, (2 * head, 2 * head, 1.8 * head)), face))
    parts.append((block(np.add(at, (head + 0.03, 0, -0.03)), (d.between(0.12, 0.22), 0.11, 0.1)), d.colour()))
    ear, tone, hang = d.between(0.1, 0.24), d.colour(), d.chance()
    for s in BOTH:
        low = head * 0.6 - ear if hang else head * 0.6
        side = head + 0.02 if hang else head * 0.6
        parts.append((block(np.add(at, (-0.02, s * side, low + ear / 2)), (0.085, 0.075, ear)), tone))
    if d.chance(0.75):
        root = np.array([-long * 0.9, 0.0, z + thick * 0.4])
        tail = (-d.between(0.1, 0.2), 0.0, d.between(-0.15, 0.28))
        parts.append((tube([root, root + tail], 0.04), d.colour()))
    if d.chance(0.35):
        parts.append((cylinder((long * 0.8, 0, z + thick * 0.3 + neck * 0.4), 0.095, 0.075), d.colour()))
    if d.chance(0.3):
        parts.append((block((-0.05, 0, z + thick), (long * 0.9, thick * 2.1, 0.09)), d.colour()))
    return parts


def mushroom(d: Draw) -> Parts:
    stem, height, cap = d.between(0.08, 0.17), d.between(0.3, 0.6), d.between(0.3, 0.48)
    rise = d.between(0.18, 0.42)
    profile = [
        (stem * d.between(1.0, 1.6), 0.0),
        (stem, height * 0.4),
        (stem * d.between(0.8, 1.1), height + 0.05),
    ]
    parts: Parts = [(lathe(profile), d.pale())]
    hat = d.colour()
    parts.append((ellipsoid((0, 0, height), (cap, cap, rise), 16, low=-0.25), hat))
    spots = d.whole(0, 6)
    turn, tone = d.between(0, 6.28), d.pale()
    for k in range(spots):
        tilt = d.between(0.35, 1.1)
        out = np.array([np.sin(tilt), 0.0, np.cos(tilt)]) * (cap, cap, rise)
        dot = ellipsoid(out, (0.07, 0.07, 0.055), 8).moved((0, 0, height))
        parts.append((dot.turned(turn + 2 * np.pi * k / spots), tone))
    if d.chance(0.4):
        parts.append((cylinder((0, 0, height * d.between(0.5, 0.75)), stem + 0.1, 0.075, stem), d.colour()))
    if d.chance(0.4):
        angle, small = d.between(0, 6.28), d.between(0.4, 0.65)
        foot = np.array([np.cos(angle), np.sin(angle), 0.0]) * (stem + cap * small * 0.8)
        parts.append((cylinder(foot, 0.06, height * small), d.pale()))
        top = np.add(foot, (0, 0, height * small))
        parts.append((ellipsoid(top, (cap * small * 0.8, cap * small * 0.8, rise * small), 12, low=0.0), d.colour()))
    if d.chance(0.35):
        parts.append((cylinder((0, 0, -0.07), d.between(0.25, 0.4), 0.08), d.of_hue(0.25, 0.4)))
    return parts


def robot(d: Draw) -> Parts:
    x, y, legs, body = (
        d.between(0.1, 0.16),
        d.between(0.14, 0.22),
        d.between(0.14, 0.36),
        d.between(0.26, 0.4),
    )
    metal, limb, top = d.colour(), d.colour(), legs + body
    parts: Parts = [(box((-x, -y, legs), (x, y, top)), metal)]
    if d.chance(0.7):
        parts += paint([block((0.02, s * y * 0.55, legs / 2), (0.13, 0.11, legs)) for s in BOTH], limb)
    else:
        parts += paint([block((0, s * y * 0.8, legs / 2), (0.44, 0.12, legs)) for s in BOTH], d.dark())
    size, head = d.between(0.09, 0.15), d.whole(0, 2)
    shape = (
        block((0, 0, top + size), (2 * size, 2 * size, 2 * size)),
        ellipsoid((0, 0, top + size), (size * 1.1,) * 3),
        cylinder((0, 0, top), size, 2 * size),
    )[head]
    parts.append((shape, d.colour()))
    parts += paint([ellipsoid((size, s * size * 0.45, top + size * 1.2), (0.04,) * 3, 8) for s in BOTH], d.pale())
    for s in ((1,), (-1,), BOTH, BOTH, BOTH)[d.whole(0, 4)]:
        pose, long = d.whole(0, 2), d.between(0.24, 0.36)
        reach = [(0.0, 0.04, -long), (long, 0.0, 0.0), (0.0, 0.06, long)][pose]
        shoulder = np.array([0.0, s * (y + 0.05), top - 0.07])
        parts.append((tube([shoulder, np.add(shoulder, (reach[0], s * reach[1], reach[2]))], 0.048), limb))
    if d.chance(0.4):
        parts.append((cylinder((0, 0, top + 2 * size - 0.02), 0.037, d.between(0.1, 0.2), segments=8), d.colour()))
    if d.chance(0.4):
        parts.append((box((-x - 0.14, -y * 0.7, legs + 0.06), (-x, y * 0.7, top - 0.03)), d.colour()))
    if d.chance(0.4):
        parts.append((block((x, 0, legs + body * 0.5), (0.07, y, body * 0.4)), d.colour()))
    return parts


def snowman(d: Draw) -> Parts:
    sizes = [d.between(0.22, 0.3), d.between(0.17, 0.22), d.between(0.12, 0.165)]
    if d.chance(0.3):
        del sizes[1]
    snow, z, parts = d.pale(), 0.0, []
    for size in sizes:
        z += size * 0.85
        parts.append((ellipsoid((0, 0, z), (size,) * 3), snow))
        z += size * 0.75
    head, top = sizes[-1], z
    neck, chest = top - 1.55 * head, sizes[-2]
    parts.append(
        (
            cylinder((head * 0.8, 0, top - head * 0.75), 0.045, d.between(0.14, 0.26), 0.01, X, 8),
            (1.0, 0.5, 0.05),
        )
    )
    if d.chance(0.55):
        hat = d.colour()
        parts.append((cylinder((0, 0, top - 0.03), head * 1.3, 0.07), hat))
        parts.append((cylinder((0, 0, top), head * 0.8, d.between(0.12, 0.26)), hat))
    elif d.chance(0.5):
        parts.append((cylinder((0, 0, top - 0.06), head * 0.95, d.between(0.2, 0.3), 0.0), d.colour()))
    if d.chance(0.5):
        parts.append((arc((0, 0, neck), head * 0.75, 0.055, 0, 2 * np.pi, axis=2), d.colour()))
    arms, up = ((), BOTH, BOTH, (1,), (-1,))[d.whole(0, 4)], d.between(-0.12, 0.2)
    wood, low = d.of_hue(0.04, 0.1), neck - chest * 0.6
    for s in arms:
        parts.append((tube([(0, s * chest * 0.8, low), (0, s * (chest + 0.24), low + up)], 0.038), wood))
    if d.chance(0.5):
        buttons = [ellipsoid((chest * 0.95, 0, low + dz), (0.04, 0.045, 0.045), 8) for dz in (-0.07, 0.07)]
        parts += paint(buttons, d.dark())
    return parts


def tree(d: Draw) -> Parts:
    trunk, height = d.between(0.05, 0.09), d.between(0.18, 0.45)
    parts: Parts = [(cylinder((0, 0, 0), trunk * 1.2, height + 0.08, trunk), d.of_hue(0.03, 0.1))]
    leaf = d.of_hue(0.22, 0.42) if d.chance(0.7) else d.colour()
    width = d.between(0.24, 0.4)
    if d.chance(0.5):
        z, levels = height, d.whole(1, 4)
        rise = d.between(0.28, 0.4) if levels > 1 else 0.6
        for k in range(levels):
            size = width * (1 - 0.2 * k)
            parts.append((cylinder((0, 0, z), size, rise, 0.0 if k == levels - 1 else size * 0.25), leaf))
            z += rise * 0.6
        top = z + rise * 0.4
    else:
        crown = d.between(0.2, 0.36)
        parts.append((ellipsoid((0, 0, height + crown), (width, width, crown)), leaf))
        for _ in range(d.whole(0, 3)):
            angle, small = d.between(0, 6.28), d.between(0.14, 0.22)
            at = (
                width * 0.8 * np.cos(angle),
                width * 0.8 * np.sin(angle),
                height + crown * d.between(0.5, 1.4),
            )
            parts.append((ellipsoid(at, (small,) * 3, 10), leaf))
        top = height + 2 * crown
        if d.chance(0.45):
            tone, n = d.colour(), d.whole(3, 6)
            for k in range(n):
                tilt = d.between(0.7, 2.2)
                out = np.array([np.sin(tilt), 0.0, np.cos(tilt)]) * (width, width, crown) + (
                    0,
                    0,
                    height + crown,
                )
                parts.append((ellipsoid(out, (0.055,) * 3, 8).turned(2 * np.pi * k / n), tone))
    if d.chance(0.3):
        parts.append((ellipsoid((0, 0, top), (0.075,) * 3, 8), d.of_hue(0.12, 0.16)))
    if d.chance(0.35):
        parts.append((cylinder((0, 0, -0.1), d.between(0.12, 0.18), 0.2, d.between(0.18, 0.24)), d.colour()))
    elif d.chance(0.4):
        parts.append((cylinder((0, 0, -0.05), d.between(0.2, 0.34), 0.08), d.of_hue(0.25, 0.4)))
    return parts
