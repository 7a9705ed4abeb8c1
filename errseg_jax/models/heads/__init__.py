"""Heads: a backbone's Endpoints -> Features (logits and what the branches need).

A head is a linen module `head(endpoints, train) -> Features`. A new one is a file, a line in HEADS and a test.
"""

from errseg_jax.models.heads.deeplabv3plus import DeepLabV3Plus

HEADS = {"deeplabv3plus": DeepLabV3Plus}

__all__ = ["HEADS", "DeepLabV3Plus"]
