"""Compiled loops of the rasteriser of 3D Gaussians. None is parallel: after one, a fork would hang (OpenMP).

Splats are rows of a float64 array [G, 9]: x, y in pixels, the three numbers a, b, c of the inverse covariance
[[a, b], [b, c]], opacity, red, green, blue. Tiles of 16 x 16 pixels are counted along rows.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TILE = 16
SPLAT = 9  # numbers of a splat
# Constants of gsplat's kernels: fainter contributions are skipped; a pixel is done before it lets less light through.
FAINTEST = 1 / 255
LEAST_TRANSMITTANCE = 1e-4


@njit(cache=True, error_model="numpy")
def _axes(rotation, scale):
    """Columns of the rotation matrix times the scales: the Gaussian's axes in the world."""
    w, x, y, z = rotation[0], rotation[1], rotation[2], rotation[3]
    w, x, y, z = np.float64(w), np.float64(x), np.float64(y), np.float64(z)
    norm = 1 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * norm, x * norm, y * norm, z * norm
    i, j, k = np.float64(scale[0]), np.float64(scale[1]), np.float64(scale[2])
    return (
        (i * (1 - 2 * (y * y + z * z)), j * 2 * (x * y - w * z), k * 2 * (x * z + w * y)),
        (i * 2 * (x * y + w * z), j * (1 - 2 * (x * x + z * z)), k * 2 * (y * z - w * x)),
        (i * 2 * (x * z - w * y), j * 2 * (y * z + w * x), k * (1 - 2 * (x * x + y * y))),
    )


@njit(cache=True, error_model="numpy", nogil=True)
def project(means, scales, rotations, extrinsics, focal, centre, slopes, blur, compensated, near, splats, depths):
    """Fills x, y, a, b, c of the splats and their depths, and changes their opacities."""
    for g in range(len(means)):
        x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
        right = extrinsics[0, 0] * x + extrinsics[0, 1] * y + extrinsics[0, 2] * z + extrinsics[0, 3]
        down = extrinsics[1, 0] * x + extrinsics[1, 1] * y + extrinsics[1, 2] * z + extrinsics[1, 3]
        depth = extrinsics[2, 0] * x + extrinsics[2, 1] * y + extrinsics[2, 2] * z + extrinsics[2, 3]
        depths[g] = depth
        if not depth > near:
            splats[g, 5] = 0
            continue
        slope_x = min(max(right / depth, slopes[0, 0]), slopes[0, 1])
        slope_y = min(max(down / depth, slopes[1, 0]), slopes[1, 1])
        axes = _axes(rotations[g], scales[g])
        xx, xy, yy = 0.0, 0.0, 0.0
        ux, uy = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        for i in range(3):
            # The i-th axis in the camera, and its image under the projection linearised at the mean.
            p = extrinsics[0, 0] * axes[0][i] + extrinsics[0, 1] * axes[1][i] + extrinsics[0, 2] * axes[2][i]
            q = extrinsics[1, 0] * axes[0][i] + extrinsics[1, 1] * axes[1][i] + extrinsics[1, 2] * axes[2][i]
            r = extrinsics[2, 0] * axes[0][i] + extrinsics[2, 1] * axes[1][i] + extrinsics[2, 2] * axes[2][i]
            u = focal[0] / depth * (p - slope_x * r)
            v = focal[1] / depth * (q - slope_y * r)
            xx, xy, yy = xx + u * u, xy + u * v, yy + v * v
            ux, uy = (ux[1], ux[2], u), (uy[1], uy[2], v)
        # Lagrange's identity: without the cancellation of xx * yy - xy * xy in flat Gaussians.
        sharp = (
            (ux[0] * uy[1] - ux[1] * uy[0]) ** 2
            + (ux[0] * uy[2] - ux[2] * uy[0]) ** 2
            + (ux[1] * uy[2] - ux[2] * uy[1]) ** 2
        )
        det = sharp + blur * (xx + yy) + blur * blur
        splats[g, 0] = focal[0] * right / depth + centre[0]
        splats[g, 1] = focal[1] * down / depth + centre[1]
        splats[g, 2], splats[g, 3], splats[g, 4] = (yy + blur) / det, -xy / det, (xx + blur) / det
        if compensated:
            splats[g, 5] *= math.sqrt(sharp / det)


@njit(cache=True, error_model="numpy")
def pixels_between(low, high, start, stop):
    """First and last pixel in [start, stop) whose centre is in [low, high]; none: last < first.

    Bounded before they become integers, however large they are.
    """
    return math.ceil(min(max(low - 0.5, start), stop)), math.floor(max(min(high - 0.5, stop - 1), start - 1))


@njit(cache=True, error_model="numpy")
def reach_of(splat):
    """Greatest power at which the splat is not fainter than FAINTEST, in exp(-power) * opacity."""
    return math.log(splat[5] / FAINTEST)


@njit(cache=True, error_model="numpy")
def rows_of(splat, reach, top, bottom):
    """First and last pixel row in [top, bottom) within reach of the splat."""
    half = math.sqrt(2 * reach * splat[2] / (splat[2] * splat[4] - splat[3] * splat[3]))
    return pixels_between(splat[1] - half, splat[1] + half, top, bottom)


@njit(cache=True, error_model="numpy")
def columns_of(splat, reach, dy, left, right):
    """First and last pixel column in [left, right) within reach, in the row whose centre is `dy` below the splat's."""
    a, b, c = splat[2], splat[3], splat[4]
    half = math.sqrt(max(2 * a * reach - (a * c - b * b) * dy * dy, 0.0)) / a
    middle = splat[0] - b * dy / a
    return pixels_between(middle - half, middle + half, left, right)


@njit(cache=True, error_model="numpy", nogil=True)
def tile_boxes(splats, height, width):
    """[G, 4] first and last tile column, first and last tile row of each splat's bounding box; none: last < first."""
    boxes = np.empty((len(splats), 4), np.int32)
    for g in range(len(splats)):
        splat = splats[g]
        left, right, top, bottom = 0, -1, 0, -1
        det = splat[2] * splat[4] - splat[3] * splat[3]
        if splat[5] >= FAINTEST and det > 0:  # not so where a rotation has no length: NaN
            reach = reach_of(splat)
            half = math.sqrt(2 * reach * splat[4] / det)
            left, right = pixels_between(splat[0] - half, splat[0] + half, 0, width)
            top, bottom = rows_of(splat, reach, 0, height)
        seen = right >= left and bottom >= top
        boxes[g, 0], boxes[g, 1] = left // TILE, right // TILE if seen else -1
        boxes[g, 2], boxes[g, 3] = top // TILE, bottom // TILE if seen else -1
    return boxes


@njit(cache=True, error_model="numpy", nogil=True)
def tile_starts(boxes, across, tiles):
    """[tiles + 1] running number of splats in the tiles, counted along rows."""
    counts = np.zeros(tiles + 1, np.int64)
    for left, right, top, bottom in boxes:
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                counts[row * across + column + 1] += 1
    return np.cumsum(counts)


@njit(cache=True, error_model="numpy", nogil=True)
def tile_members(boxes, order, across, starts):
    """Counting sort into tiles: within a tile, the order is that of `order`."""
    free, members = starts.copy(), np.empty(starts[-1], np.int32)
    for splat in order:
        left, right, top, bottom = boxes[splat]
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                tile = row * across + column
                members[free[tile]] = splat
                free[tile] += 1
    return members


@njit(cache=True, error_model="numpy")
def falloff_at(splat, dx, dy):
    """exp(-power) at a distance in pixels from the splat's centre."""
    return math.exp(-0.5 * (splat[2] * dx * dx + splat[4] * dy * dy) - splat[3] * dx * dy)


@njit(cache=True, error_model="numpy")
def tile_window(tile, height, width):
    """First row and the one after the last, first column and the one after the last."""
    across = -(-width // TILE)
    top, left = tile // across * TILE, tile % across * TILE
    return top, min(top + TILE, height), left, min(left + TILE, width)


@njit(cache=True, error_model="numpy", nogil=True)
def composite(splats, starts, members, alpha_max, image):
    """Adds the splats of every tile to its pixels, nearest first, until all its pixels are done."""
    height, width = image.shape[:2]
    through = np.ones((height, width))  # transmittance; 0 marks the pixels that are done
    for tile in range(len(starts) - 1):
        top, bottom, left, right = tile_window(tile, height, width)
        live = (bottom - top) * (right - left)
        for i in range(starts[tile], starts[tile + 1]):
            if live == 0:
                break
            splat = splats[members[i]]
            reach = reach_of(splat)
            first_row, last_row = rows_of(splat, reach, top, bottom)
            for row in range(first_row, last_row + 1):
                dy = row + 0.5 - splat[1]
                first, last = columns_of(splat, reach, dy, left, right)
                for column in range(first, last + 1):
                    before = through[row, column]
                    if before == 0:
                        continue
                    alpha = min(alpha_max, splat[5] * falloff_at(splat, column + 0.5 - splat[0], dy))
                    after = before * (1 - alpha)
                    if after <= LEAST_TRANSMITTANCE:
                        through[row, column] = 0
                        live -= 1
                        continue
                    through[row, column] = after
                    pixel, weight = image[row, column], alpha * before
                    pixel[0] += weight * splat[6]
                    pixel[1] += weight * splat[7]
                    pixel[2] += weight * splat[8]
                    pixel[3] += weight
