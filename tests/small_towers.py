"""Networks of an evaluation, of the official kinds and small enough for tests; with random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from mdtbench.metrics.official import resize, ulip
from mdtbench.metrics.official.clip_vision import ClipVision, TowerShape
from mdtbench.metrics.official.picture_extractors import PictureSpec
from mdtbench.metrics.official.pointbert import PointBertConfig
from mdtbench.metrics.official.points import Preparation
from mdtbench.metrics.official.weights import WeightsFile

TOWER = TowerShape(width=32, layers=1, heads=4, hidden=48, embedding=8, activation=nn.functional.gelu)
PICTURES = PictureSpec(
    "small", 1, WeightsFile("small", "", "", 0), partial(ClipVision, TOWER), resize.clip_224, TOWER.embedding
)
POINTS = replace(
    ulip.ULIP2_SPEC,
    config=PointBertConfig(channels=6, depth=1, embedding=8, trans_dim=48, num_group=8, group_size=4),
    preparation=Preparation(64),
)
