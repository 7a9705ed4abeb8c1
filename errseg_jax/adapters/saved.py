"""A network that is there only as the scores it left in files: they come with the image, as further channels."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import jax

from errseg_jax.adapters.network import RGB, Network
from errseg_jax.data.score_files import ScoreFormat
from errseg_jax.data.scored import ScoreFiles
from errseg_jax.data.scores import decode
from errseg_jax.errors import UserError
from errseg_jax.structs import Features


@dataclasses.dataclass(frozen=True)
class SavedAdapter:
  """Class scores in a file for each image.

  Attributes:
    folder: of `data.scored.ScoreFiles`.
    values: of `data.score_files.ScoreFormat`, as the next two.
    channels_first: see there.
    align_corners: see there.
  """

  folder: str = ""
  values: str = "probabilities"
  channels_first: bool = False
  align_corners: bool = False

  @property
  def files(self) -> ScoreFiles:
    """The folder.

    Raises:
      UserError: there is none.
    """
    if not self.folder:
      raise UserError("config.segmenter.adapter.folder is empty; set it to the folder of the score files")
    kind = ScoreFormat(self.values, self.channels_first, self.align_corners)
    return ScoreFiles(pathlib.Path(self.folder).expanduser(), kind)

  def network(self, num_classes: int) -> Network:
    """Reads the scores in an image's further channels."""

    def function(weights: Mapping[str, jax.Array], images: jax.Array) -> Features:
      return Features(logits=decode(images[..., RGB:]))

    return Network(function, {}, num_classes, channels=RGB + num_classes)
