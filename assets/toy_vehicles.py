"""Toys that drive, swim or fly. Each draws its sizes and optional parts independently."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .primitives import Solid, X, Y, block, box, cylinder, ellipsoid, lathe, loft, prism
from .toy_draw import BOTH, Draw, Parts, paint, wheels


def boat(d: Draw) -> Parts:
    width, deep, bow = d.between(0.15, 0.23), d.between(0.16, 0.26), d.between(0.15, 0.32)
    keel = d.between(0.4, 0.75)

    def outline(scale: float, z: float) -> list[tuple[float, float, float]]:
        w, stern, front = width * scale, -0.5 * (0.9 + 0.1 * scale), 0.5 - (1 - scale) * 0.2
        return [(stern, -w, z), (front - bow, -w, z), (front, 0, z), (front - bow, w, z), (stern, w, z)]

    parts: Parts = [(loft([outline(keel, 0.0), outline(1.0, deep)]), d.colour())]
    if d.chance(0.3):
        parts.append((loft([outline(1.05, deep - 0.04), outline(1.05, deep + 0.04)]), d.colour()))
    cabin = d.chance(0.6)
    x = d.between(-0.25, -0.1)
    if cabin:
        long, high = d.between(0.1, 0.2), d.between(0.12, 0.22)
        parts.append((box((x - long, -width * 0.7, deep), (x + long, width * 0.7, deep + high)), d.colour()))
        if d.chance(0.4):
            parts.append((block((x, 0, deep + high + 0.06), (long, width, 0.12)), d.colour()))
    if not cabin or d.chance(0.5):
        mast, tall = d.between(0.05, 0.15), d.between(0.5, 0.75)
        parts.append((cylinder((mast, 0, deep - 0.02), 0.04, tall, segments=8), d.of_hue(0.05, 0.1)))
        low, high, reach = deep + 0.12, deep + tall - 0.02, d.between(0.25, 0.48)
        sail = prism([(low, mast - 0.05), (high, mast - 0.05), (low, mast - 0.05 - reach)], -0.037, 0.037, Y)
        parts.append((sail, d.pale() if d.chance() else d.colour()))
        if d.chance(0.5):
            jib = prism([(low, mast + 0.05), (high * 0.85, mast + 0.05), (low, 0.47)], -0.037, 0.037, Y)
            parts.append((jib, d.colour()))
        if d.chance(0.4):
            parts.append((block((mast - 0.08, 0, deep + tall), (0.2, 0.07, 0.09)), d.colour()))
    else:
        funnels = d.whole(1, 3)
        tubes = [cylinder((x + 0.13 * k - 0.06, 0, deep + 0.1), 0.055, d.between(0.25, 0.4)) for k in range(funnels)]
        parts += paint(tubes, d.colour())
    if d.chance(0.35):
        parts.append((block((-0.5, 0, deep * 0.5), (0.12, 0.075, deep * 1.1)), d.colour()))
    return parts


def car(d: Draw) -> Parts:
    length, width, floor = d.between(0.42, 0.5), d.between(0.17, 0.25), d.between(0.1, 0.16)
    deck = floor + d.between(0.12, 0.18)
    lacquer = d.colour()
    parts: Parts = [(box((-length, -width, floor), (length, width, deck)), lacquer)]
    back, front = d.between(-0.44, -0.1), d.between(0.08, 0.26)
    roof = deck + d.between(0.14, 0.24)
    slope_back, slope_front, w = d.between(0.0, 0.12), d.between(0.04, 0.15), width - 0.02
    rings = [
        [(back, -w, deck), (front, -w, deck), (front, w, deck), (back, w, deck)],
        [(back + slope_back, -w * 0.85, roof), (front - slope_front, -w * 0.85, roof),
         (front - slope_front, w * 0.85, roof), (back + slope_back, w * 0.85, roof)],
    ]  # fmt: skip
    parts.append((loft(rings), d.colour()))
    radius = d.between(0.1, 0.15)
    axles = [-0.29, 0.29] if d.chance(0.75) else [-0.34, -0.05, 0.3]
    parts += paint(wheels(axles, width, radius, 0.09), d.dark())
    if d.chance(0.35):
        high = deck + d.between(0.1, 0.18)
        parts.append((box((-length - 0.02, -width, high), (-length + 0.1, width, high + 0.07)), d.colour()))
        parts += paint([block((-length + 0.04, s * 0.1, (deck + high) / 2), (0.07, 0.07, 0.2)) for s in BOTH], lacquer)
    if d.chance(0.35):
        middle = (back + slope_back + front - slope_front) / 2
        size = (d.between(0.1, 0.3), d.between(0.1, 0.3), d.between(0.07, 0.14))
        parts.append((block((middle, 0, roof + size[2] / 2), size), d.colour()))
    if d.chance():
        lights = [ellipsoid((length, s * width * 0.65, deck - 0.06), (0.045, 0.05, 0.05), 8) for s in BOTH]
        parts += paint(lights, d.pale())
    if d.chance(0.3):
        parts.append((cylinder((-0.6, d.side() * 0.1, floor + 0.03), 0.04, 0.2, axis=X, segments=8), d.colour()))
    return parts


def _wing(root: Sequence[float], tip: Sequence[float], chord: float, tip_chord: float, thick: float) -> Solid:
    """A flat wing between two leading-edge points, in the planes of constant y."""
    rings = []
    for (x, y, z), c in ((root, chord), (tip, tip_chord)):
        low, high = z - thick / 2, z + thick / 2
        rings.append([(x, y, low), (x, y, high), (x - c, y, high), (x - c, y, low)])
    return loft(rings)


def plane(d: Draw) -> Parts:
    radius = d.between(0.08, 0.12)
    nose = d.between(0.05, 0.16)
    hull = [
        (0.045, -0.5),
        (radius, -0.15),
        (radius, 0.5 - nose),
        (radius * 0.65, 0.5 - nose * 0.35),
        (0.0, 0.5),
    ]
    parts: Parts = [(lathe(hull, axis=X), d.colour())]
    span, sweep, chord = d.between(0.36, 0.5), d.between(-0.02, 0.25), d.between(0.18, 0.27)
    x, z, lift = d.between(0.05, 0.2), d.between(-0.06, 0.06), d.between(0.0, 0.07)
    wing_colour = d.colour()
    for level in (z, z + 0.22) if d.chance(0.25) else (z,):
        tips = [(x - sweep, s * span, level + lift) for s in BOTH]
        parts += paint([_wing((x, 0, level), tip, chord, chord * 0.6, 0.07) for tip in tips], wing_colour)
    if d.chance(0.3) or len(parts) > 3:
        parts += paint([block((x - 0.1, s * span * 0.7, z + 0.11), (0.075, 0.075, 0.22)) for s in BOTH], d.colour())
    tail, fin = d.colour(), d.between(0.16, 0.28)
    parts.append((prism([(0.0, -0.3), (0.0, -0.48), (fin, -0.52), (fin, -0.42)], -0.037, 0.037, axis=Y), tail))
    high = fin if d.chance(0.3) else 0.02
    parts += paint([_wing((-0.36, 0, high), (-0.42, s * 0.19, high), 0.14, 0.1, 0.07) for s in BOTH], tail)
    engines = d.whole(0, 2)
    spots = [0.45, 0.8][:engines] if d.chance(0.8) else [0.6][:engines]
    pods = [cylinder((x - sweep * f - 0.14, s * span * f, z - 0.07), 0.055, 0.24, axis=X) for f in spots for s in BOTH]
    parts += paint(pods, d.colour())
    if d.chance(0.35):
        parts.append((block((0.52, 0, 0), (0.07, 0.075, d.between(0.3, 0.42))), d.dark()))
    if d.chance(0.35):
        gear = [wheel.moved((0, 0, -radius - 0.07)) for wheel in wheels([0.1], 0.06, 0.06, 0.07)]
        parts += paint(gear, d.dark())
    if d.chance(0.5):
        parts.append((ellipsoid((0.24, 0, radius * 0.8), (0.13, 0.06, 0.08), 8), d.colour()))
    return parts


def rocket(d: Draw) -> Parts:
    radius, body, nose = d.between(0.1, 0.17), d.between(0.45, 0.65), d.between(0.18, 0.32)
    parts: Parts = [(lathe([(radius * d.between(0.7, 1.0), 0.0), (radius, 0.2), (radius, body)]), d.colour())]
    tip = [(radius, body), (radius * d.between(0.65, 0.85), body + nose * 0.5), (0.0, body + nose)]
    parts.append((lathe(tip), d.colour()))
    fins, reach, high = d.whole(3, 4), d.between(0.14, 0.26), d.between(0.18, 0.36)
    drop = d.between(-0.1, 0.05)
    outline = [
        (0.0, radius * 0.6),
        (high, radius * 0.6),
        (drop + 0.1, radius + reach),
        (drop - 0.05, radius + reach),
    ]
    colour, turn = d.colour(), d.between(0, 2 * np.pi / fins)
    fin = prism(outline, -0.037, 0.037, axis=Y)
    parts += paint([fin.turned(turn + 2 * np.pi * k / fins) for k in range(fins)], colour)
    if d.chance(0.4):
        size, long = d.between(0.055, 0.08), d.between(0.25, 0.42)
        booster = lathe([(size, 0.0), (size, long * 0.75), (0.0, long)], (radius + size * 0.8, 0, 0))
        angle = turn + np.pi / fins
        parts += paint([booster.turned(angle + a) for a in (0, np.pi)[: d.whole(1, 2)]], d.colour())
    if d.chance(0.5):
        parts.append((cylinder((0, 0, -0.1), radius * 0.9, 0.12, radius * 0.5), d.dark()))
    if d.chance(0.5):
        high = body * d.between(0.55, 0.85)
        parts.append((ellipsoid((radius * 0.95, 0, high), (0.06, 0.075, 0.075), 8), d.pale()))
    if d.chance(0.4):
        parts.append((cylinder((0, 0, body * d.between(0.3, 0.9)), radius + 0.025, 0.08), d.colour()))
    return parts


def train(d: Draw) -> Parts:
    y, floor, boiler = d.between(0.14, 0.19), d.between(0.14, 0.2), d.between(0.1, 0.15)
    lacquer = d.colour()
    parts: Parts = [(box((-0.5, -y, floor), (0.42, y, floor + 0.09)), lacquer)]
    deck, back = floor + 0.08, d.between(-0.3, -0.12)
    parts.append((cylinder((back - 0.02, 0, deck + boiler), boiler, 0.42 - back, axis=X), d.colour()))
    tall = d.between(0.32, 0.44)
    parts.append((box((back - 0.2, -y, deck), (back, y, deck + tall)), d.colour()))
    if d.chance(0.7):
        parts.append((block((back - 0.1, 0, deck + tall + 0.03), (0.3, 2 * y + 0.1, 0.075)), d.colour()))
    chimney, ahead = d.colour(), d.between(0.24, 0.32)
    flare = d.between(0.05, 0.1)
    parts.append((cylinder((ahead, 0, deck + boiler * 1.8), 0.05, d.between(0.12, 0.28), flare), chimney))
    if d.chance(0.5):
        parts.append((ellipsoid((ahead - 0.2, 0, deck + 2 * boiler), (0.075, 0.075, 0.1), 8), d.colour()))
    radius, n_axles = d.between(0.085, 0.12), d.whole(2, 4)
    axles = list(np.linspace(-0.38, 0.3, n_axles))
    parts += paint(wheels(axles, y, radius, 0.08), d.dark())
    if d.chance(0.5):
        wedge = prism([(0.02, 0.4), (0.02, 0.56), (floor + 0.08, 0.4)], -y, y, axis=Y)
        parts.append((wedge, d.colour()))
    if d.chance(0.4):
        parts.append((cylinder((0.4, 0, deck + boiler), 0.06, 0.08, axis=X, segments=8), d.pale()))
    if d.chance(0.4):
        parts.append((box((-0.5, -y * 0.9, deck), (back - 0.22, y * 0.9, deck + d.between(0.1, 0.2))), d.dark()))
    return parts
