"""The models of the toys: what each is built of, as coloured boxes on a grid of 16 cells a side.

A model is a function of two choices, its size (0 or 1) and its top (0 to 3). Below the middle of the grid (z < 8) is
what its conditioning picture shows, above it what is left open. z is up, the front faces +x, and nothing comes nearer
than one cell to the border. Every top is heavier on one side, so that no two turns of a toy look alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BODY, TOP, DARK, PALE, WOOD = "body", "top", "dark", "pale", "wood"  # slots for colours


@dataclass(frozen=True)
class Box:
    """Cells [low, high) along each axis, in the colour of a slot."""

    slot: str
    x: tuple[int, int]
    y: tuple[int, int]
    z: tuple[int, int]


Boxes = list[Box]


def chair(size: int, top: int) -> Boxes:
    near, far = 4 - size, 12 + size
    ends = ((near, near + 2), (far - 2, far))
    boxes = [Box(BODY, (near, far), (near, far), (6, 8))]
    boxes += [Box(BODY, x, y, (1, 6)) for x in ends for y in ends]
    rear, wide = (near, near + 2), (near, far)
    if top == 0:
        return [*boxes, Box(TOP, rear, wide, (8, 15))]
    if top == 1:
        return [*boxes, Box(TOP, rear, wide, (8, 11)), *(Box(TOP, (near + 2, far), y, (8, 11)) for y in ends)]
    if top == 2:
        return [*boxes, *(Box(TOP, rear, y, (8, 13)) for y in ends), Box(TOP, rear, wide, (13, 15))]
    return [*boxes, Box(TOP, rear, (7, 9), (8, 15)), Box(TOP, (near, near + 5), wide, (13, 15))]


def car(size: int, top: int) -> Boxes:
    rear, front = 3 - size, 13 + size
    boxes = [Box(BODY, (rear, front), (4, 12), (3, 8))]
    boxes += [
        Box(DARK, x, y, (1, 5)) for x in ((rear + 1, rear + 4), (front - 4, front - 1)) for y in ((3, 4), (12, 13))
    ]
    if top == 0:  # a cabin in the rear
        return [*boxes, Box(TOP, (rear, 8), (4, 12), (8, 12))]
    if top == 1:  # a van
        return [*boxes, Box(TOP, (rear, front - 3), (4, 12), (8, 15))]
    if top == 2:  # a lorry: cab in front, low walls
        return [*boxes, Box(TOP, (front - 4, front), (4, 12), (8, 14)), Box(TOP, (rear, rear + 1), (4, 12), (8, 11))]
    return [*boxes, Box(TOP, (rear + 1, rear + 4), (5, 11), (8, 11)), Box(TOP, (rear, front), (7, 9), (11, 13))]


def house(size: int, top: int) -> Boxes:
    rear, front = 4 - size, 12 + size
    boxes = [Box(BODY, (rear, front), (3, 13), (1, 8)), Box(DARK, (front, front + 1), (7, 9), (1, 5))]
    if top == 0:  # a gable, its ridge in the rear
        steps = [Box(TOP, (rear, front - 2 * k), (3 + k, 13 - k), (8 + k, 9 + k)) for k in range(4)]
        return [*boxes, *steps, Box(TOP, (rear, rear + 2), (4, 6), (9, 15))]
    if top == 1:  # a tower at a corner
        return [*boxes, Box(TOP, (front - 5, front), (8, 13), (8, 15))]
    if top == 2:  # a roof with one slope
        return [*boxes, *(Box(TOP, (rear, front - 2 * k), (3, 13), (8 + 2 * k, 10 + 2 * k)) for k in range(3))]
    return [*boxes, Box(TOP, (rear, front + 1), (3, 13), (8, 9)), Box(TOP, (rear, rear + 3), (3, 13), (9, 13))]


def lamp(size: int, top: int) -> Boxes:
    near, far = 5 - size, 11 + size
    boxes = [Box(BODY, (near, far), (near, far), (1, 3)), Box(BODY, (7, 9), (7, 9), (3, 8))]
    if top == 0:  # a wide shade, forward
        return [*boxes, Box(TOP, (6, 14), (4, 12), (8, 12))]
    if top == 1:  # an arm with a hanging shade
        arm = [Box(TOP, (7, 9), (7, 9), (8, 15)), Box(TOP, (9, 13), (7, 9), (13, 15))]
        return [*boxes, *arm, Box(TOP, (10, 15), (5, 11), (9, 13))]
    if top == 2:  # two shades of two heights
        pole = [Box(TOP, (7, 9), (7, 9), (8, 11)), Box(TOP, (7, 9), (3, 13), (11, 12))]
        return [*boxes, *pole, Box(TOP, (6, 11), (1, 5), (9, 12)), Box(TOP, (6, 11), (10, 14), (11, 15))]
    return [*boxes, Box(TOP, (7, 9), (7, 9), (8, 15)), Box(TOP, (2, 9), (5, 11), (11, 15))]


def tree(size: int, top: int) -> Boxes:
    near, far = 6 - size, 10 + size
    boxes = [Box(BODY, (3, 13), (3, 13), (1, 3)), Box(WOOD, (near, far), (near, far), (3, 8))]
    if top == 0:  # a round crown, forward
        return [*boxes, Box(TOP, (6, 14), (4, 12), (8, 15))]
    if top == 1:  # a fir, leaning back
        return [*boxes, *(Box(TOP, (2, 12 - 3 * k), (2 + k, 14 - k), (8 + 2 * k, 10 + 2 * k)) for k in range(3))]
    if top == 2:  # two crowns
        return [*boxes, Box(TOP, (7, 14), (8, 14), (8, 15)), Box(TOP, (3, 9), (3, 8), (8, 12))]
    return [*boxes, Box(WOOD, (7, 9), (7, 9), (8, 12)), Box(TOP, (1, 10), (3, 13), (12, 15))]


def robot(size: int, top: int) -> Boxes:
    rear, front = 6 - size, 10 + size
    boxes = [Box(DARK, (6, 10), y, (1, 4)) for y in ((4, 7), (9, 12))] + [Box(BODY, (rear, front), (4, 12), (4, 8))]
    if top == 0:  # arms forward
        arms = [Box(TOP, (10, 15), y, (8, 10)) for y in ((2, 4), (12, 14))]
        return [*boxes, *arms, Box(TOP, (6, 10), (2, 14), (8, 10)), Box(PALE, (6, 10), (6, 10), (10, 14))]
    if top == 1:  # one arm up
        up = [Box(TOP, (6, 9), (12, 14), (8, 15)), Box(TOP, (6, 9), (2, 12), (8, 10))]
        return [*boxes, *up, Box(PALE, (7, 11), (5, 9), (10, 14))]
    if top == 2:  # a pack on its back
        return [*boxes, Box(TOP, (2, 6), (4, 12), (8, 15)), Box(PALE, (6, 10), (6, 10), (8, 12))]
    return [*boxes, Box(TOP, (6, 14), (4, 12), (8, 10)), Box(PALE, (9, 14), (5, 11), (10, 15))]


def boat(size: int, top: int) -> Boxes:
    rear, front = 3 - size, 13 + size
    boxes = [Box(BODY, (rear, front), (4, 12), (4, 8)), Box(DARK, (rear + 2, front - 3), (5, 11), (1, 4))]
    if top == 0:  # a sail
        return [*boxes, Box(WOOD, (10, 11), (7, 9), (8, 15)), Box(TOP, (rear, 10), (7, 9), (9, 15))]
    if top == 1:  # a bridge and a funnel in the rear
        return [*boxes, Box(TOP, (rear, 7), (4, 12), (8, 12)), Box(TOP, (rear + 1, rear + 4), (6, 9), (12, 15))]
    if top == 2:  # a square sail in front
        return [*boxes, Box(WOOD, (9, 10), (7, 9), (8, 15)), Box(TOP, (10, 12), (2, 14), (9, 15))]
    return [*boxes, Box(TOP, (8, front), (5, 11), (8, 11)), Box(TOP, (rear, rear + 2), (4, 12), (8, 15))]


def dog(size: int, top: int) -> Boxes:
    rear, front = 3 - size, 12
    legs = [Box(BODY, x, y, (1, 4)) for x in ((rear, rear + 2), (front - 2, front)) for y in ((5, 7), (9, 11))]
    boxes = [*legs, Box(BODY, (rear, front), (5, 11), (4, 8))]
    if top == 0:  # a head held high
        return [*boxes, Box(TOP, (9, 12), (6, 10), (8, 11)), Box(TOP, (9, 15), (5, 11), (11, 15))]
    if top == 1:  # a long neck, as a giraffe's
        neck = Box(TOP, (10, 12), (7, 9), (8, 15))
        return [*boxes, neck, Box(TOP, (11, 15), (6, 10), (12, 15)), Box(TOP, (rear, rear + 1), (7, 9), (8, 13))]
    if top == 2:  # a rider
        return [*boxes, Box(PALE, (5, 8), (6, 10), (8, 15)), Box(TOP, (10, 14), (5, 11), (8, 12))]
    humps = [Box(TOP, (rear, rear + 4), (5, 11), (8, 13)), Box(TOP, (9, 11), (6, 10), (8, 11))]
    return [*boxes, *humps]


MODELS: dict[str, Callable[[int, int], Boxes]] = {
    "boat": boat,
    "car": car,
    "chair": chair,
    "dog": dog,
    "house": house,
    "lamp": lamp,
    "robot": robot,
    "tree": tree,
}
