"""Inception v3 as the Fréchet Inception distance uses it (mseitzer/pytorch-fid, src/pytorch_fid/inception.py).

Its weights come from TensorFlow, not from torchvision: 1008 classes, no auxiliary classifier, average pools that
leave the padding out of the mean, and a max pool in the last block. Parameter names are those of
`pt_inception-2015-12-05-6726825d.pth`. Pictures are [N, 3, 299, 299] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

POOLED = 2048
CLASSES = 1008

Pool = Callable[[Tensor], Tensor]
mean_pool: Pool = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
max_pool: Pool = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
halving_pool: Pool = partial(functional.max_pool2d, kernel_size=3, stride=2)


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU. size: of the kernel (height, width); padded: keeps the map's size."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], stride: int = 1, padded: bool = True):
        super().__init__()
        padding = (size[0] // 2, size[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def _one(inputs: int, outputs: int) -> Convolution:
    return Convolution(inputs, outputs, (1, 1))


def _three(inputs: int, outputs: int) -> Convolution:
    return Convolution(inputs, outputs, (3, 3))


def _halving(inputs: int, outputs: int) -> Convolution:
    return Convolution(inputs, outputs, (3, 3), stride=2, padded=False)


def _row(inputs: int, outputs: int, length: int) -> Convolution:
    return Convolution(inputs, outputs, (1, length))


def _column(inputs: int, outputs: int, length: int) -> Convolution:
    return Convolution(inputs, outputs, (length, 1))


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = _one(inputs, 64)
        self.branch5x5_1 = _one(inputs, 48)
        self.branch5x5_2 = Convolution(48, 64, (5, 5))
        self.branch3x3dbl_1 = _one(inputs, 64)
        self.branch3x3dbl_2 = _three(64, 96)
        self.branch3x3dbl_3 = _three(96, 96)
        self.branch_pool = _one(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(mean_pool(x))], 1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = _halving(inputs, 384)
        self.branch3x3dbl_1 = _one(inputs, 64)
        self.branch3x3dbl_2 = _three(64, 96)
        self.branch3x3dbl_3 = _halving(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, halving_pool(x)], 1)


class BlockC(nn.Module):
    """17 x 17: 7x7 kernels as rows and columns of `inner` channels."""

    def __init__(self, inputs: int, inner: int):
        super().__init__()
        self.branch1x1 = _one(inputs, 192)
        self.branch7x7_1 = _one(inputs, inner)
        self.branch7x7_2 = _row(inner, inner, 7)
        self.branch7x7_3 = _column(inner, 192, 7)
        self.branch7x7dbl_1 = _one(inputs, inner)
        self.branch7x7dbl_2 = _column(inner, inner, 7)
        self.branch7x7dbl_3 = _row(inner, inner, 7)
        self.branch7x7dbl_4 = _column(inner, inner, 7)
        self.branch7x7dbl_5 = _row(inner, 192, 7)
        self.branch_pool = _one(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean_pool(x))], 1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1 = _one(inputs, 192)
        self.branch3x3_2 = _halving(192, 320)
        self.branch7x7x3_1 = _one(inputs, 192)
        self.branch7x7x3_2 = _row(192, 192, 7)
        self.branch7x7x3_3 = _column(192, 192, 7)
        self.branch7x7x3_4 = _halving(192, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), halving_pool(x)], 1)


class BlockE(nn.Module):
    """8 x 8: 3x3 kernels as a row beside a column. pool: of the pooled branch."""

    def __init__(self, inputs: int, pool: Pool):
        super().__init__()
        self.pool = pool
        self.branch1x1 = _one(inputs, 320)
        self.branch3x3_1 = _one(inputs, 384)
        self.branch3x3_2a = _row(384, 384, 3)
        self.branch3x3_2b = _column(384, 384, 3)
        self.branch3x3dbl_1 = _one(inputs, 448)
        self.branch3x3dbl_2 = _three(448, 384)
        self.branch3x3dbl_3a = _row(384, 384, 3)
        self.branch3x3dbl_3b = _column(384, 384, 3)
        self.branch_pool = _one(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        crosses = [
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
        ]
        return torch.cat([self.branch1x1(x), *crosses, self.branch_pool(self.pool(x))], 1)


class FidInception(nn.Module):
    """Pictures [N, 3, 299, 299] in [-1, 1] -> pool3 features [N, 2048].

    The classifier `fc` is part of the weights file but not of the features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _halving(3, 32)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3), padded=False)
        self.Conv2d_2b_3x3 = _three(32, 64)
        self.Conv2d_3b_1x1 = _one(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3), padded=False)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, mean_pool)
        # TensorFlow's graph of 2015 has a max pool here; the weights were trained with it.
        self.Mixed_7c = BlockE(2048, max_pool)
        self.fc = nn.Linear(POOLED, CLASSES)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Maps after both pools, Mixed_6e and Mixed_7c: 64, 192, 768 and 2048 channels, sides 73, 35, 17 and 8."""
        first = halving_pool(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        second = halving_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)))
        third = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(second))))
        third = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(third))))
        return [first, second, third, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(third)))]

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1].mean((2, 3))
