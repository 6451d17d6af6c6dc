"""Networks of an evaluation, of the official kinds and small enough for tests; with random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mdtbench.metrics.official import resize, ulip
from mdtbench.metrics.official.networks import vision_transformer
from mdtbench.metrics.official.picture_extractors import PictureSpec
from mdtbench.metrics.official.pointbert import PointBertConfig
from mdtbench.metrics.official.points import Preparation
from mdtbench.metrics.official.weights import WeightsFile

SMALL = partial(vision_transformer, "vit_tiny_patch16_224", resize.VIT_SIDE, embed_dim=8, depth=1, num_heads=2)
PICTURES = PictureSpec("small", 1, WeightsFile("small", "", "", 0), SMALL, resize.dgm_eval_224, 8)
POINTS = replace(
    ulip.ULIP2_SPEC,
    config=PointBertConfig(channels=6, depth=1, embedding=8, trans_dim=48, num_group=8, group_size=4),
    preparation=Preparation(64),
)
