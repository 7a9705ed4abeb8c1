"""The random views that training sees, and the padding of evaluation."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from errseg_jax.data.augmentations import Augmentation, Blur, Chain, Crop, Cutout, Noise, Photometric
from errseg_jax.data.datasets.base import Sample
from errseg_jax.structs import IGNORE


@dataclasses.dataclass(frozen=True)
class TrainTransform:
  """The chain of augmentations of a config: crop, then colours, blur, noise and cutout, those that are on.

  Attributes:
    crop_size: of `augmentations.Crop`, as the next five.
    scale_min: see there.
    scale_max: see there.
    scale_step: see there.
    rotation: see there.
    flip: see there.
    photometric: strength of `augmentations.Photometric`; 0 is none.
    blur: sigma of `augmentations.Blur`; 0 is none.
    noise: deviation of `augmentations.Noise`; 0 is none.
    max_class_share: of `augmentations.Crop`.
    cutout: share of `augmentations.Cutout`; 0 is none.
    pad_value: RGB (0..255) outside of the image; the label there is 255. Jittered as the image is.

  Raises:
    UserError: a value makes no sense.
  """

  crop_size: tuple[int, int]
  scale_min: float = 0.5
  scale_max: float = 2.0
  scale_step: float = 0.25
  rotation: float = 10.0
  flip: bool = True
  photometric: float = 0.5
  blur: float = 0.0
  noise: float = 0.0
  max_class_share: float = 1.0
  cutout: float = 0.0
  pad_value: tuple[int, int, int] = (124, 116, 104)

  def __post_init__(self):
    _ = self.chain  # checks every value

  @functools.cached_property
  def chain(self) -> Chain:
    """Its augmentations."""
    crop = Crop(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Crop)})
    more: list[tuple[float, Augmentation]] = [
      (self.photometric, Photometric(self.photometric)),
      (self.blur, Blur(self.blur)),
      (self.noise, Noise(self.noise)),
      (self.cutout, Cutout(self.cutout, self.pad_value)),
    ]
    return Chain((crop, *(part for amount, part in more if amount)))

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    """One random view: {"image": uint8 [*crop_size, 3], "label": uint8 [*crop_size]}."""
    return self.chain(sample, rng)

  def stronger(self, strength: float) -> TrainTransform:
    """Views that a network trained on this one's does not know, so that it errs on images it has learnt.

    Args:
      strength: s > 0. Scales reach 1 + s / 4 further to both sides, rotation 10 s degrees further; colours change
        by s more; a blur of up to s / 256 of the crop's shorter side and noise of up to 12 s grey levels come on top.
    """
    wider = 1 + strength / 4
    return dataclasses.replace(
      self,
      scale_min=self.scale_min / wider,
      scale_max=self.scale_max * wider,
      rotation=self.rotation + 10 * strength,
      photometric=self.photometric + strength,
      blur=self.blur + strength * min(self.crop_size) / 256,
      noise=self.noise + 12 * strength,
    )


def pad_to(sample: Sample, height: int, width: int, pad_value: tuple[int, ...] = (124, 116, 104)) -> Sample:
  """Pads at the bottom and right to a fixed size, so that few shapes are compiled.

  Args:
    sample: image and label at most `height` x `width`; other keys are kept.
    height: rows of the output.
    width: columns of the output.
    pad_value: of each channel of the padding, RGB first (0..255); the label there is 255.

  Raises:
    ValueError: the sample is larger.
  """
  rows, columns = sample["label"].shape
  if rows > height or columns > width:
    raise ValueError(f"{sample.get('name')}: {columns}x{rows} does not fit in {width}x{height}")
  image = np.empty((height, width, len(pad_value)), np.uint8)
  image[:] = pad_value
  image[:rows, :columns] = sample["image"]
  label = np.full((height, width), IGNORE, np.uint8)
  label[:rows, :columns] = sample["label"]
  return {**sample, "image": image, "label": label}
