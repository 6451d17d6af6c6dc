"""Toys of things in and around a house. Each draws its sizes and optional parts independently."""

from __future__ import annotations

import numpy as np

from .primitives import X, Y, arc, block, box, cylinder, ellipsoid, lathe, loft, prism, tube
from .toy_draw import BOTH, Draw, Parts, corner_legs, paint


def bed(d: Draw) -> Parts:
    y, legs, frame = d.between(0.2, 0.38), d.between(0.08, 0.2), d.between(0.08, 0.13)
    wood, top = d.colour(), legs + frame
    parts: Parts = [(box((-0.5, -y, legs), (0.5, y, top)), wood)]
    parts += paint(corner_legs(0.455, y - 0.045, 0.045, legs + 0.02, round_=d.chance()), wood)
    soft = d.between(0.07, 0.13)
    parts.append((box((-0.44, -y + 0.02, top), (0.46, y - 0.02, top + soft)), d.pale()))
    high = d.between(0.2, 0.42)
    parts.append(
        (
            box((-0.52, -y - 0.015, legs - 0.015), (-0.44, y + 0.015, top + high)),
            wood if d.chance() else d.colour(),
        )
    )
    if d.chance(0.4):
        parts.append((box((0.44, -y - 0.015, legs - 0.015), (0.52, y + 0.015, top + high * d.between(0.4, 0.9))), wood))
    pillow, level = d.colour(), top + soft + 0.03
    spots = [0.0] if y < 0.27 or d.chance(0.3) else [-y * 0.48, y * 0.48]
    wide = 0.7 * y if len(spots) == 1 else 0.42 * y
    parts += paint([ellipsoid((-0.3, v, level), (0.11, wide, 0.075), 10) for v in spots], pillow)
    if d.chance(0.7):
        start = d.between(-0.15, 0.2)
        parts.append((box((start, -y - 0.02, top), (0.47, y + 0.02, top + soft + 0.05)), d.colour()))
    if d.chance(0.3):
        tall = d.between(0.5, 0.7)
        uprights = corner_legs(0.46, y - 0.04, 0.04, tall, round_=False)
        posts = [leg.moved((0, 0, top)) for leg in uprights]
        parts += paint(posts, wood)
        if d.chance(0.6):
            parts.append((box((-0.5, -y, top + tall), (0.5, y, top + tall + 0.07)), d.colour()))
    elif d.chance(0.3):
        parts.append((block((-0.4, d.side() * (y + 0.13), 0.15), (0.2, 0.2, 0.3)), d.colour()))
    return parts


def bottle(d: Draw) -> Parts:
    radius, body, neck = d.between(0.15, 0.26), d.between(0.35, 0.6), d.between(0.05, 0.085)
    shoulder, long = d.between(0.06, 0.22), d.between(0.08, 0.24)
    waist = radius * d.between(0.75, 1.0)
    top = body + shoulder + long
    profile = [(radius, 0.0), (waist, body / 2), (radius, body), (neck, body + shoulder), (neck, top)]
    glass = lathe(profile)
    flat = d.between(0.6, 1.0) if d.chance(0.4) else 1.0
    parts: Parts = [(glass.scaled((flat, 1.0, 1.0)), d.colour())]
    if d.chance(0.7):
        parts.append((cylinder((0, 0, top - 0.02), neck + d.between(0.015, 0.05), d.between(0.08, 0.14)), d.colour()))
    if d.chance(0.6):
        low, high = body * d.between(0.1, 0.3), body * d.between(0.7, 0.9)
        label = cylinder((0, 0, low), radius + 0.015, high - low)
        parts.append((label.scaled((flat, 1.0, 1.0)), d.colour()))
    if d.chance(0.35):
        s, reach = d.side(), d.between(0.1, 0.16)
        start = -np.pi / 2 if s > 0 else np.pi / 2
        handle = arc((0, s * radius * 0.75, body * 0.95), reach + 0.04, 0.04, start, start + np.pi, axis=X)
        parts.append((handle, d.colour()))
    if d.chance(0.25):
        parts.append((cylinder((0, 0, -0.07), radius * 1.15, 0.09), d.colour()))
    if d.chance(0.25):
        parts.append((cylinder((0, 0, body + shoulder), neck + 0.05, 0.075), d.colour()))
    if d.chance(0.2):
        parts.append((tube([(0, 0, top), (0, 0, top + 0.12), (0, d.side() * 0.16, top + 0.16)], 0.038), d.colour()))
    return parts


def chair(d: Draw) -> Parts:
    x, y, seat = d.between(0.2, 0.32), d.between(0.2, 0.34), d.between(0.28, 0.55)
    back = d.between(0.3, 0.6)
    wood = d.colour()
    top = seat + 0.09
    parts: Parts = [(box((-x, -y, seat), (x, y, top)), d.colour())]
    if d.chance(0.3):
        parts.append((cylinder((0, 0, 0), min(x, y) * d.between(0.7, 1.1), 0.08), wood))
        parts.append((cylinder((0, 0, 0.06), 0.06, seat - 0.04), wood))
    else:
        parts += paint(corner_legs(x - 0.045, y - 0.045, 0.042, seat + 0.02, round_=d.chance()), wood)
        if d.chance(0.35):
            low = seat * d.between(0.25, 0.55)
            parts += paint([block((0, s * (y - 0.045), low), (2 * x, 0.075, 0.075)) for s in BOTH], d.colour())
    if d.chance(0.6):
        parts.append((box((-x, -y, top), (-x + 0.085, y, top + back)), d.colour()))
    else:
        posts = [box((-x, s * y - 0.045, top), (-x + 0.085, s * y + 0.045, top + back)) for s in BOTH]
        rails = [block((-x + 0.04, 0, top + back * f), (0.08, 2 * y, 0.11)) for f in ([0.9], [0.9, 0.4])[d.chance()]]
        parts += paint([*posts, *rails], wood)
    arms = ((), BOTH, (1,), (-1,))[d.whole(0, 3)]
    colour = d.colour()
    for s in arms:
        high = top + d.between(0.16, 0.22)
        parts.append((block((0, s * (y - 0.02), high), (2 * x, 0.085, 0.08)), colour))
        parts.append((box((x - 0.09, s * (y - 0.02) - 0.042, top), (x - 0.01, s * (y - 0.02) + 0.042, high)), colour))
    if d.chance(0.3):
        parts.append((ellipsoid((0.02, 0, top + 0.02), (x * 0.8, y * 0.8, 0.07)), d.colour()))
    return parts


def dumbbell(d: Draw) -> Parts:
    grip, bar = d.between(0.12, 0.26), d.between(0.042, 0.06)
    parts: Parts = [(cylinder((0, -0.5, 0), bar, 1.0, axis=Y), d.colour())]
    ball, plates = d.chance(0.3), d.whole(1, 3)
    sizes = sorted((d.between(0.13, 0.34) for _ in range(plates)), reverse=True)
    segments = 6 if d.chance(0.3) else 16
    colours = [d.colour() for _ in range(plates)]
    uneven = d.chance(0.3)
    for s in BOTH:
        here = sizes[: d.whole(1, plates)] if uneven else sizes
        at = s * grip
        if ball:
            size = here[0] * 0.75
            parts.append((ellipsoid((0, at + s * size * 0.8, 0), (size,) * 3), colours[0]))
            continue
        for size, colour in zip(here, colours, strict=False):
            thick = s * d.between(0.07, 0.1)
            parts.append((cylinder((0, at, 0), size, thick, axis=Y, segments=segments), colour))
            at += thick
    if d.chance(0.3):
        parts.append((cylinder((0, -grip * 0.6, 0), bar + 0.02, grip * 1.2, axis=Y), d.colour()))
    if d.chance(0.35):
        parts += paint([cylinder((0, s * 0.5 - 0.05, 0), bar + 0.03, 0.1, axis=Y) for s in BOTH], d.colour())
    if d.chance(0.3):
        low = -sizes[0] if not ball else -sizes[0] * 0.75
        parts.append((block((0, 0, low - 0.02), (d.between(0.2, 0.4), 0.9, 0.075)), d.colour()))
        posts = [box((-0.04, s * grip * 0.8 - 0.04, low), (0.04, s * grip * 0.8 + 0.04, 0)) for s in BOTH]
        parts += paint(posts, d.colour())
    return parts


def house(d: Draw) -> Parts:
    x, y, wall = d.between(0.24, 0.38), d.between(0.26, 0.42), d.between(0.28, 0.52)
    parts: Parts = [(box((-x, -y, 0), (x, y, wall)), d.colour())]
    rise, over = d.between(0.18, 0.36), 0.06
    u, v = x + over, y + over
    kind, roof = d.whole(0, 2), d.colour()
    if kind == 0:
        parts.append((prism([(-v, wall), (v, wall), (0, wall + rise)], -u, u, axis=X), roof))
    elif kind == 1:
        parts.append((prism([(wall, -u), (wall, u), (wall + rise, 0)], -v, v, axis=Y), roof))
    else:
        ring = np.array([(-u, -v), (u, -v), (u, v), (-u, v)])
        rings = [np.column_stack([ring * f, np.full(4, z)]) for f, z in ((1.0, wall), (0.1, wall + rise))]
        parts.append((loft(rings), roof))
    if d.chance(0.5):
        at = (d.side() * x * 0.5, d.side() * y * 0.5, wall + rise * 0.55)
        parts.append((block(at, (0.1, 0.1, rise * 1.1)), d.colour()))
    door = d.between(-0.4, 0.4) * y
    parts.append((box((x - 0.02, door - 0.08, 0), (x + 0.04, door + 0.08, d.between(0.2, 0.26))), d.colour()))
    if d.chance(0.6):
        spot = -np.sign(door) * y * 0.55
        panes = [block((s * x, spot, wall * 0.6), (0.07, 0.14, 0.14)) for s in ((1,), BOTH)[d.chance()]]
        parts += paint(panes, d.pale())
    if d.chance(0.4):
        s, deep = d.side(), d.between(0.15, 0.28)
        low = (-x * 0.7, min(s * y, s * (y + deep)), 0)
        parts.append((box(low, (x * 0.6, max(s * y, s * (y + deep)), wall * d.between(0.45, 0.75))), d.colour()))
    if d.chance(0.3):
        parts.append((box((-x - 0.14, -y - 0.08, -0.01), (x + 0.14, y + 0.08, 0.07)), d.of_hue(0.25, 0.4)))
    return parts


def lamp(d: Draw) -> Parts:
    height, base = d.between(0.5, 0.95), d.between(0.15, 0.3)
    metal = d.colour()
    if d.chance(0.7):
        parts: Parts = [(cylinder((0, 0, 0), base, 0.09), d.colour())]
    else:
        parts = [(box((-base, -base, 0), (base, base, 0.09)), d.colour())]
    parts.append((cylinder((0, 0, 0.05), 0.042, height), metal))
    if d.chance(0.35):
        parts.append((ellipsoid((0, 0, 0.2), (0.12, 0.12, d.between(0.12, 0.2))), d.colour()))
    wide, shade = d.between(0.2, 0.36), d.between(0.2, 0.36)
    shade_colour = d.colour()
    if d.chance(0.2):
        parts.append((ellipsoid((0, 0, height + shade * 0.6), (wide * 0.8,) * 3), shade_colour))
    else:
        outer = [(wide, height - 0.05), (wide * d.between(0.35, 0.9), height + shade)]
        inner = [(outer[1][0] * 0.3, height + shade - 0.08), (wide - 0.075, height - 0.05)]
        parts.append((lathe([*outer, *inner, outer[0]]), shade_colour))
        parts.append((ellipsoid((0, 0, height + 0.03), (0.085,) * 3, 8), d.pale()))
    if d.chance(0.35):
        s, low = d.side(), height * d.between(0.35, 0.6)
        parts.append((block((0, s * 0.15, low), (0.075, 0.3, 0.075)), metal))
        parts.append((cylinder((0, s * 0.3, low - 0.06), 0.15, 0.18, 0.07), d.colour()))
    return parts


def mug(d: Draw) -> Parts:
    radius, height, wall = d.between(0.24, 0.42), d.between(0.5, 0.95), 0.08
    foot = radius * d.between(0.7, 1.05)
    inside = [(radius - wall, height), (foot - wall, wall), (0.0, wall)]
    parts: Parts = [(lathe([(0.0, 0.0), (foot, 0.0), (radius, height), *inside]), d.colour())]
    handle_colour = d.colour()
    grip = d.between(0.13, 0.22) * min(1.0, height / 0.7)
    first = d.side()
    for side in (first, -first) if d.chance(0.3) else (first,):
        at = (0.0, side * (radius + foot) / 2, height * d.between(0.45, 0.6))
        start = 0.0 if side > 0 else np.pi
        handle = arc(at, grip, 0.045, start - np.pi / 2, start + np.pi / 2, axis=X)
        parts.append((handle, handle_colour))
    if d.chance(0.35):
        parts.append((cylinder((0, 0, height), radius * 1.05, 0.07), d.colour()))
        parts.append((ellipsoid((0, 0, height + 0.12), (0.08, 0.08, 0.08), 8), d.colour()))
    elif d.chance(0.4):
        parts.append((cylinder((0, 0, height * 0.6), radius - wall, height * 0.25), d.colour()))
    if d.chance(0.35):
        parts.append((cylinder((0, 0, -0.07), foot * 1.2, 0.08, foot * 1.2 + 0.18), d.colour()))
    if d.chance(0.35):
        parts.append((cylinder((0, 0, height * 0.4), max(radius, foot) + 0.02, height * 0.2), d.colour()))
    return parts


def table(d: Draw) -> Parts:
    x, y, height = d.between(0.28, 0.5), d.between(0.28, 0.5), d.between(0.3, 0.7)
    round_top = d.chance(0.35)
    wood = d.colour()
    if round_top:
        y = x
        parts: Parts = [(cylinder((0, 0, height), x, 0.085), d.colour())]
    else:
        parts = [(box((-x, -y, height), (x, y, height + 0.085)), d.colour())]
    inset = 0.68 if round_top else 0.9
    kind = d.whole(0, 3)
    if kind == 0:
        parts.append((cylinder((0, 0, 0), x * d.between(0.45, 0.8), 0.08), wood))
        parts.append((cylinder((0, 0, 0.05), d.between(0.06, 0.11), height), wood))
    elif kind == 1:
        parts += paint([block((0, s * (y * inset - 0.04), height / 2), (x, 0.08, height)) for s in BOTH], wood)
    else:
        parts += paint(corner_legs(x * inset - 0.05, y * inset - 0.05, 0.045, height, round_=kind == 2), wood)
    if d.chance(0.45):
        low = height * d.between(0.25, 0.55)
        parts.append((block((0, 0, low), (1.8 * x * inset, 1.8 * y * inset, 0.075)), d.colour()))
    if d.chance(0.35):
        at = (0, d.between(-0.3, 0.3) * y, height - 0.06)
        parts.append((block(at, (1.7 * x * inset, y * 0.8, 0.16)), d.colour()))
    if d.chance(0.4):
        at = (d.between(-0.5, 0.5) * x, d.between(-0.5, 0.5) * y, height + 0.08)
        size = d.between(0.07, 0.13)
        thing = cylinder(at, size, d.between(0.12, 0.25), size * 0.7)
        parts.append((thing if d.chance() else ellipsoid((*at[:2], at[2] + size), (size,) * 3, 10), d.colour()))
    return parts


def teapot(d: Draw) -> Parts:
    radius, high = d.between(0.24, 0.34), d.between(0.2, 0.34)
    clay = d.colour()
    body = ellipsoid((0, 0, high), (radius, radius, high), 16)
    if d.chance(0.3):
        body = cylinder((0, 0, 0), radius, 1.8 * high, radius * d.between(0.6, 0.9))
    parts: Parts = [(body, clay)]
    reach, lift = d.between(0.18, 0.28), d.between(0.1, 0.4)
    path = [(radius * 0.7, 0, high * 0.7), (radius + reach * 0.6, 0, high), (radius + reach, 0, high + lift)]
    parts.append((tube(path, [0.085, 0.06, 0.042]), clay if d.chance() else d.colour()))
    grip = d.colour()
    if d.chance(0.65):
        parts.append((arc((-radius * 0.85, 0, high), d.between(0.13, 0.2), 0.042, np.pi, 2 * np.pi, axis=Y), grip))
    else:
        parts.append((arc((0, 0, 1.6 * high), radius * 0.75, 0.042, -np.pi / 2, np.pi / 2, axis=Y), grip))
    top = 1.95 * high if len(body.vertices) > 40 else 1.8 * high
    if d.chance(0.75):
        parts.append((cylinder((0, 0, top - 0.04), radius * 0.55, 0.085, radius * 0.35), d.colour()))
        if d.chance(0.75):
            parts.append((ellipsoid((0, 0, top + 0.09), (0.06, 0.06, 0.07), 8), d.colour()))
    base = d.whole(0, 2)
    if base == 1:
        parts.append((cylinder((0, 0, -0.05), radius * 0.75, 0.12), d.colour()))
    elif base == 2:
        spots = [ellipsoid((radius * 0.6, 0, -0.01), (0.06, 0.06, 0.09), 8).turned(2.094 * k) for k in range(3)]
        parts += paint(spots, d.colour())
    if d.chance(0.35):
        parts.append((cylinder((0, 0, high - 0.05), radius + 0.02, 0.1), d.colour()))
    return parts
