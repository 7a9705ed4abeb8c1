"""Heads: a backbone's Endpoints -> Features (logits and what the branches need).

A head is a linen module `head(endpoints, train) -> Features`. A new one is a file, a line in HEADS and a test that
calls the checker of `tests/models/test_heads.py`. Published weights: rules in `<name>_rules.py`.
"""

from errseg_jax.models.heads.deeplabv3 import DeepLabV3
from errseg_jax.models.heads.deeplabv3plus import DeepLabV3Plus
from errseg_jax.models.heads.dpc import DPC
from errseg_jax.models.heads.dupsampling import DUpsampling
from errseg_jax.models.heads.fcn import FCN
from errseg_jax.models.heads.gau import GAUDecoder
from errseg_jax.models.heads.head import Head
from errseg_jax.models.heads.largefov import LargeFOV
from errseg_jax.models.heads.local import Local
from errseg_jax.models.heads.pan import PAN
from errseg_jax.models.heads.pspnet import PSPNet

HEADS: dict[str, type[Head]] = {
  "deeplabv3": DeepLabV3,
  "deeplabv3plus": DeepLabV3Plus,
  "dpc": DPC,
  "dupsampling": DUpsampling,
  "fcn": FCN,
  "gau": GAUDecoder,
  "largefov": LargeFOV,
  "local": Local,
  "pan": PAN,
  "pspnet": PSPNet,
}

__all__ = [
  "DPC",
  "FCN",
  "HEADS",
  "PAN",
  "DUpsampling",
  "DeepLabV3",
  "DeepLabV3Plus",
  "GAUDecoder",
  "Head",
  "LargeFOV",
  "Local",
  "PSPNet",
]
