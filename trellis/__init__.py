"""The TRELLIS backbone: networks under their public key names, checkpoints, image to asset."""

from .create import create

__all__ = ["create"]
