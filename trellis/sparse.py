"""Features on the occupied voxels of a batch, and what follows from the coordinates alone.

Neighbours, windows and coarser grids belong to the coordinates: they are computed at first use and kept, once
per batch and not once per forward pass. N voxels, B samples, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from ..base.errors import UsageError
from .sequences import Sequences, grouped, one_group

KERNEL_PLACES = 27  # of a 3x3x3 kernel
MIDDLE = 13  # the place of the voxel itself


@dataclass(frozen=True, eq=False)
class Voxels:
    """Occupied cells of a batch. Never changed; moved or resampled ones are new objects.

    Attributes:
        coords: [N, 4] int32 (sample, x, y, z), x, y, z >= 0, rows ordered by sample, no cell twice.
        batch_size: B; samples without voxels count.
    """

    coords: Tensor
    batch_size: int
    _windows: dict[tuple[int, int], Sequences] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, coords: Tensor, batch_size: int | None = None) -> Voxels:
        """Checked voxels; without `batch_size` the last sample that has a voxel is the last one.

        Raises:
            UsageError: coordinates of another shape or kind, or rows that are not ordered by sample.
        """
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise UsageError(
                f"Coordinates of shape {list(coords.shape)}, {coords.dtype}. Give [N, 4] integers (sample, x, y, z)."
            )
        if len(coords) and (bool((coords < 0).any()) or bool((coords[1:, 0] < coords[:-1, 0]).any())):
            raise UsageError("Coordinates are negative or not ordered by sample. Sort the rows by their first column.")
        found = int(coords[-1, 0]) + 1 if len(coords) else 0
        if batch_size is not None and batch_size < found:
            raise UsageError(f"Coordinates of {found} samples (got batch_size {batch_size}). Give {found} or more.")
        return cls(coords.int(), found if batch_size is None else batch_size)

    def __len__(self) -> int:
        return len(self.coords)

    def to(self, device: torch.device | str) -> Voxels:
        """The same cells on `device`, with all that has been found out about them."""
        coords = self.coords.to(device)
        if coords is self.coords:
            return self
        moved = Voxels(coords, self.batch_size)
        moved._windows.update({key: sequences.to(device) for key, sequences in self._windows.items()})
        known = {name: value for name, value in vars(self).items() if name not in vars(moved)}
        vars(moved).update({name: _on(value, device) for name, value in known.items()})
        return moved

    @cached_property
    def sample(self) -> Tensor:
        """Sample of each voxel: [N] int64."""
        return self.coords[:, 0].long()

    @cached_property
    def lengths(self) -> list[int]:
        """Voxels of each sample."""
        return self._counts.tolist()

    @cached_property
    def side(self) -> int:
        """Cells a side of the smallest grid that holds all voxels."""
        return _side(self.coords)

    @cached_property
    def sequences(self) -> Sequences:
        """One sequence per sample, for attention within samples."""
        return one_group(self.sample, self._counts)

    def windows(self, size: int, shift: int = 0) -> Sequences:
        """One sequence per occupied window of `size` cells a side, for attention within windows.

        Args:
            shift: added to the coordinates before they are divided into windows.
        """
        if (size, shift) not in self._windows:
            window = torch.cat([self.sample[:, None], (self.coords[:, 1:].long() + shift) // size], 1)
            _, owner, counts = torch.unique(_codes(window), return_inverse=True, return_counts=True)
            self._windows[size, shift] = grouped(owner, counts)
        return self._windows[size, shift]

    @cached_property
    def neighbours(self) -> Tensor:
        """The row that each place of a 3x3x3 kernel reads, x slowest, and N where it meets no voxel: [N, 27] int64."""
        codes, side = _codes(self.coords.long(), margin=1), _side(self.coords, margin=1)
        found, row = codes.sort()
        step = torch.arange(-1, 2, device=codes.device)
        x, y, z = torch.cartesian_prod(step, step, step).unbind(1)
        offsets = (x * side + y) * side + z  # no matrix product: CUDA has none of integers
        wanted = codes + offsets[:MIDDLE, None]  # [13, N]; the other half are the same pairs, seen from the other side
        place = torch.searchsorted(found, wanted).clamp(max=max(len(found) - 1, 0))
        hit = found[place] == wanted
        kernel, to = hit.nonzero().unbind(1)
        source = row[place[hit]]
        table = torch.full((len(self), KERNEL_PLACES), len(self), device=codes.device)
        table[to, kernel] = source
        table[source, KERNEL_PLACES - 1 - kernel] = to
        table[:, MIDDLE] = torch.arange(len(self), device=codes.device)
        return table

    def halved(self) -> tuple[Voxels, Tensor]:
        """Voxels of half the resolution, ordered by (sample, x, y, z), and each voxel's row in them: [N] int64."""
        return self._halved

    def subdivided(self) -> tuple[Voxels, Tensor]:
        """The eight children of every voxel, one parent after the other, and the parent row of each: [8 N] int64."""
        return self._subdivided

    @cached_property
    def _counts(self) -> Tensor:
        return torch.bincount(self.sample, minlength=self.batch_size)

    @cached_property
    def _halved(self) -> tuple[Voxels, Tensor]:
        coarse = torch.cat([self.sample[:, None], self.coords[:, 1:].long() // 2], 1)
        code, row = torch.unique(_codes(coarse), return_inverse=True)
        return Voxels(_decoded(code, _side(coarse)), self.batch_size), row

    @cached_property
    def _subdivided(self) -> tuple[Voxels, Tensor]:
        corner = torch.arange(2, dtype=torch.int32, device=self.coords.device)
        offsets = torch.cartesian_prod(corner[:1], corner, corner, corner)  # [8, 4]
        scale = torch.tensor([1, 2, 2, 2], dtype=torch.int32, device=self.coords.device)
        children = Voxels(((self.coords * scale)[:, None] + offsets).flatten(0, 1), self.batch_size)
        # Kept on the object as if asked for: children's neighbours follow from their parents', with no search.
        children.__dict__["neighbours"] = self._neighbours_of_children()
        parent = torch.arange(len(self), device=self.coords.device).repeat_interleave(8)
        return children, parent

    def _neighbours_of_children(self) -> Tensor:
        """`neighbours` of the eight children of every voxel: [8 N, 27]. All children of a voxel are there."""
        places, corner = (part.to(self.coords.device) for part in read_by_children())
        parents = self.neighbours[:, places]  # [N, 8, 27]
        return torch.where(parents < len(self), 8 * parents + corner, 8 * len(self)).flatten(0, 1)


Table = Tensor | Sequences | Voxels | int | list[int] | tuple[Voxels, Tensor]


def _on(value: Table, device: torch.device | str) -> Table:
    """What a `Voxels` keeps, on `device`; side and lengths are numbers."""
    if isinstance(value, tuple):
        voxels, row = value
        return voxels.to(device), row.to(device)
    return value if isinstance(value, int | list) else value.to(device)


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """A feature vector on every voxel of a batch.

    Attributes:
        feats: [N, C], one row per row of `voxels.coords`.
    """

    feats: Tensor
    voxels: Voxels

    @classmethod
    def of(cls, feats: Tensor, coords: Tensor, batch_size: int | None = None) -> SparseTensor:
        """From features and coordinates, which are checked.

        Raises:
            UsageError: coordinates that `Voxels.of` refuses, or another number of rows.
        """
        if len(feats) != len(coords):
            raise UsageError(f"{len(feats)} rows of features on {len(coords)} voxels. Give one row per voxel.")
        return cls(feats, Voxels.of(coords, batch_size))

    @property
    def coords(self) -> Tensor:
        return self.voxels.coords

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features on the same voxels."""
        return SparseTensor(feats, self.voxels)


def downsample(x: SparseTensor) -> SparseTensor:
    """Features at half the resolution: the sum of a coarse cell's voxels divided by one more than their number.

    That divisor is the public implementation's (scatter_reduce includes its zero start in the mean); weights have
    been trained with it.
    """
    coarse, row = x.voxels.halved()
    total = x.feats.new_zeros(len(coarse), x.feats.shape[1]).index_add(0, row, x.feats)
    return SparseTensor(total / (torch.bincount(row, minlength=len(coarse)) + 1).to(total.dtype)[:, None], coarse)


def upsample(x: SparseTensor, fine: Voxels) -> SparseTensor:
    """Features on `fine` voxels, each read from its coarse cell. x.voxels must be those of `fine.halved()`."""
    return SparseTensor(x.feats.index_select(0, fine.halved()[1]), fine)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Features on the eight children of every voxel, each its parent's."""
    children, _ = x.voxels.subdivided()
    return SparseTensor(x.feats.repeat_interleave(8, 0), children)


@cache
def read_by_children() -> tuple[Tensor, Tensor]:
    """What each of a voxel's eight children reads through the 27 places of a kernel, both [8, 27] int64.

    Returns:
        The parent's place where the parent of what is read lies, and which of that parent's children it is.
    """
    two, three = torch.arange(2), torch.arange(-1, 2)
    corners, steps = torch.cartesian_prod(two, two, two), torch.cartesian_prod(three, three, three)
    cell = corners[:, None] + steps  # from the parent's first child, in children
    (x, y, z), (i, j, k) = (cell // 2 + 1).unbind(-1), (cell % 2).unbind(-1)
    return 9 * x + 3 * y + z, 4 * i + 2 * j + k


def _side(coords: Tensor, margin: int = 0) -> int:
    """Cells a side of a grid that holds `coords` and leaves `margin` free all around."""
    return (int(coords[:, 1:].max()) if len(coords) else 0) + 1 + 2 * margin


def _codes(coords: Tensor, margin: int = 0) -> Tensor:
    """One number per cell, ascending in (sample, x, y, z). coords: [N, 4] int64; returns [N] int64."""
    side = _side(coords, margin)
    sample, x, y, z = coords.unbind(1)
    return ((sample * side + x + margin) * side + y + margin) * side + z + margin


def _decoded(codes: Tensor, side: int) -> Tensor:
    """Inverse of `_codes` without margin: [N, 4] int32."""
    digits = [codes // side**3, codes // side**2 % side, codes // side % side, codes % side]
    return torch.stack(digits, 1).int()
