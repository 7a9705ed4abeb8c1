"""CamVid (11 classes, 480x360), SqueezeNet DeepLabv3+ with error and detail branches, for a CPU."""

from errseg_jax.config import default_config, stage


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "camvid", "root": ""}
  config.transform.crop_size = (240, 320)
  config.transform.scale_min = 0.5
  config.transform.scale_max = 1.5
  config.segmenter.backbone = {"name": "squeezenet", "output_stride": 16}
  config.segmenter.head = {"name": "deeplabv3plus", "features": 128, "low_features": 48}
  config.segmenter.mean = (123.0, 117.0, 104.0)
  config.segmenter.std = (1.0, 1.0, 1.0)
  config.segmenter.channels = "bgr"
  config.error_branch.features = 48
  config.detail_branch.features = (96, 64, 32)
  config.stages.semantic = stage(10, 1e-3)
  config.stages.error = stage(10, 1e-3)
  config.stages.detail = stage(10, 1e-3)
  config.stages.control = stage(10, 1e-3)
  config.order = ("semantic", "error", "detail", "control")
  return config
