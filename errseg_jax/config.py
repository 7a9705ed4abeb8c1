"""The default configuration: every key, its unit and its reason. An experiment in `configs/` overrides it.

A section is the keyword arguments of one class, so a mistyped key is refused when the class is built.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def stage(steps: int, learning_rate: float, **changes) -> ConfigDict:
  """A training stage with the defaults of P0: Adam, poly 0.9.

  Args:
    steps: optimizer steps.
    learning_rate: at the start of the schedule.
    **changes: other keys of the stage, or of its `optimizer`.
  """
  config = ConfigDict()
  config.steps = steps  # of the optimizer
  config.batch_size = 8  # images per step, over all devices
  config.eval_every = 0  # steps between scores on the choose split; 0: only at the end
  config.save_every = 200  # steps between checkpoints that a killed run goes on from
  config.ema = 0.0  # decay of averaged weights, evaluated in place of the raw ones; 0 = off
  config.optimizer = ConfigDict()
  config.optimizer.name = "adam"  # or "sgd"
  config.optimizer.learning_rate = learning_rate  # at the start of the schedule
  config.optimizer.power = 0.9  # of the poly schedule
  config.optimizer.warmup_steps = 0  # of a linear rise before the schedule
  config.optimizer.weight_decay = 0.0  # not on biases and normalisation
  config.optimizer.momentum = 0.9  # sgd only
  config.optimizer.clip_norm = 1.0  # of the gradient; 0 = off
  config.optimizer.multipliers = ConfigDict()  # parameter path prefix, "/" between names -> factor
  for key, value in changes.items():
    setattr(config.optimizer if key in config.optimizer else config, key, value)
  return config


def segmenter_section() -> ConfigDict:
  """The semantic network: a published DeepLabv3+, from scratch."""
  config = ConfigDict()
  config.init = ""  # a workdir whose semantic network is taken as given: no semantic stage
  # A given network that is not ours: {"name": of adapters.ADAPTERS, and its fields}; of what follows only mean is read.
  config.adapter = ConfigDict()
  config.features = (
    "all"  # that the branches see beside the scores: or "low", without the highest; or "logits", none
  )
  config.backbone = ConfigDict({"name": "resnet", "depth": 50, "output_stride": 16})
  config.backbone_weights = ""  # .npz of ImageNet weights for the backbone, or the workdir of another run
  config.head = ConfigDict({"name": "deeplabv3plus"})
  config.mean = (123.675, 116.28, 103.53)  # RGB, 0..255
  config.std = (58.395, 57.12, 57.375)  # RGB, of 0..255
  config.channels = "rgb"  # or "bgr": the order that the weights were trained on
  # Images are padded to multiples of loader.size_multiple plus this: 1 where corner pixels map onto corner pixels.
  config.size_remainder = 0
  return config


def stages_section() -> ConfigDict:
  """A stage of each kind; `order` says which of them train."""
  config = ConfigDict()
  config.semantic = stage(40_000, 1e-3)
  config.finetune = stage(40_000, 5e-4)  # a given network, trained on
  config.guided = stage(40_000, 1e-3)  # the network and its guidance, together
  config.guidance = stage(40_000, 1e-3)
  config.subnets = stage(40_000, 1e-3)
  config.error = stage(60_000, 1e-3)
  config.detail = stage(90_000, 1e-3)
  config.cascade = stage(150_000, 1e-3)
  # The semantic network trained on for as many steps as both branches took, for comparison only.
  config.control = stage(150_000, 1e-3)
  return config


def add_data_sections(config: ConfigDict) -> None:
  """Splits, augmentation and loading."""
  config.splits = ConfigDict()
  config.splits.train = "train"  # trains
  config.splits.val = "val"  # reported, never chosen on
  config.splits.choose = ""  # "": hold out choose_fraction of the training images
  config.splits.choose_fraction = 0.1  # of the training images
  config.splits.runs = 4  # of neighbours, such as video frames, that held-out images lie in; 0: single images
  config.splits.error_source = "train"  # whose errors train the branches: or "holdout", "crossfit", "strong"
  config.splits.holdout_fraction = 0.25  # of "holdout", of the training images
  config.splits.folds = 3  # of "crossfit"
  config.splits.strength = 1.0  # of "strong"; 0.5 adds half as much to config.transform

  config.transform = ConfigDict()
  config.transform.crop_size = (513, 513)  # (height, width)
  config.transform.scale_min = 0.5  # factor of height and width
  config.transform.scale_max = 2.0  # the same
  config.transform.scale_step = 0.25  # factors lie that far apart
  config.transform.rotation = 10.0  # degrees to either side
  config.transform.flip = True  # left and right, every other time
  config.transform.photometric = 0.5  # strength; 0 = off
  config.transform.blur = 0.0  # largest sigma, pixels; 0 = off
  config.transform.noise = 0.0  # largest standard deviation, grey levels; 0 = off
  config.transform.max_class_share = 1.0  # crops of one class by more are drawn anew, 0.75 is usual; 1 = off
  config.transform.cutout = 0.0  # largest share of a side that is painted over and ignored; 0 = off
  config.transform.copy_paste = (
    0.0  # probability that a region of a rare class comes from another image; 0 = off
  )

  config.loader = ConfigDict()
  config.loader.threads = 2  # that read and augment images
  config.loader.shards = (
    ""  # folder of `errseg data convert`, to read samples from in place of the data set's files
  )
  # Folder of `errseg data extract --passes=K`: the branches train on its views, and the frozen network does not run.
  config.loader.features = ""
  config.loader.eval_batch_size = 4  # images at a time where whole ones are scored
  config.loader.size_multiple = 32  # images are padded to multiples of it


def add_rest_sections(config: ConfigDict) -> None:
  """What a trained network does otherwise than in training."""
  # A cascade at rest refines only where its attention, P(coarse label is wrong), exceeds the threshold; 0: everywhere.
  # The tile's side is in cells of the shared map.
  config.early_exit = ConfigDict({"threshold": 0.0, "tile": 2})

  # The detail branch at rest runs its finest block only on tiles whose mean of 1 - max P_sb exceeds the threshold; 0:
  # everywhere, for on small images the tiles' margins cost what is saved. The tile's side is in pixels.
  config.sparse = ConfigDict({"threshold": 0.0, "tile": 32})

  # How a network at rest sees an image; training and choosing see it once and whole. Flags of `evaluate`, `predict`.
  config.views = ConfigDict()
  config.views.scales = (1.0,)  # factors of height and width
  config.views.mirror = False  # each scale's mirror image too
  config.views.combine = "mean"  # or "max", "mean_max", "learned"
  config.views.share = 1.0  # of an image's tiles, the most doubtful, that are seen again; 1: all of it
  config.views.tile = 32  # side of these, pixels
  config.views.margin = 32  # around them, pixels
  config.tiles = ConfigDict()
  config.tiles.size = 0  # side, pixels, a size that the network takes; 0: the whole image at once
  config.tiles.overlap = 32  # of neighbours, pixels
  # Of models.crf.GuidanceCRF, which labels are smoothed by at rest; 0 iterations: not at all.
  config.crf = ConfigDict({"iterations": 0})


def default_config() -> ConfigDict:
  """Everything that can be set."""
  config = ConfigDict()
  config.seed = 0  # of weights, order of the images and augmentation
  config.platform = placeholder(str)  # "cpu", "gpu" or "tpu"; unset: the best that jax finds
  config.num_devices = placeholder(int)  # unset: all of them
  config.dtype = "float32"  # compute type; "bfloat16" on accelerators
  # Losses and labels from low-resolution logits: "auto", "pallas" (TPU, GPU), "banded" (plain jax); or "reference",
  # from logits at the image's size.
  config.kernels = "auto"

  config.data = ConfigDict({"name": "scenes"})  # a data set and its fields (errseg_jax/data/datasets)
  add_data_sections(config)
  config.segmenter = segmenter_section()

  config.error_branch = ConfigDict({"name": "error", "prior": "detail"})  # of models.error_branches
  config.detail_branch = ConfigDict({"name": "detail", "residual": True})  # of models.detail_branches
  config.guidance = ConfigDict()  # of models.guidance.Guidance: image classification that guides every pixel
  config.guidance_loss = ConfigDict()  # of losses.GuidedLoss, beside semantic_loss
  config.subnets = ConfigDict()  # of models.confusion_groups.ConfusionGroups, for the groups of config.groups
  # Of losses.SemanticLoss. `pixel`: a loss of pixel_losses.PIXEL_LOSSES by name, and its fields.
  config.semantic_loss = ConfigDict({"pixel": {"name": "cross_entropy"}})
  # Of losses.SubnetsLoss. Without the Jaccard loss subnets favour common classes, as the network itself does.
  config.subnets_loss = ConfigDict({"jaccard": 2.0, "pixel": {"name": "confusion"}})
  # Of losses.ErrorLoss. Every pixel counts alike, so that P_ep is a probability from the start.
  config.error_loss = ConfigDict({"w1": 1.0, "w2": 1.0, "w3": 1.0})
  # Of losses.DetailLoss. Balance and Jaccard loss find rare classes; `choose` takes back what of the balance harms.
  config.detail_loss = ConfigDict({"weights": "soft", "balance": 0.5, "jaccard": 2.0})
  config.detail_loss.pixel = {"name": "cross_entropy"}

  # Where the stage "cascade" trains all branches at once: of models.cascade.Refine, and of losses.CascadeLoss.
  config.cascade = ConfigDict()
  config.cascade_loss = ConfigDict()
  add_rest_sections(config)

  # Groups of classes that the semantic network confuses, found in its confusion matrix (`errseg confusion`).
  config.groups = ConfigDict()
  config.groups.named = ()  # by hand: (("car", "truck"), ...) or ("cityscapes",), ("voc",); (): found, as follows
  config.groups.method = "components"  # or "hierarchical", "spectral" (metrics.class_groups.Discovery)
  config.groups.threshold = 0.1  # share of a class's pixels, mean of both directions: confused from there on
  config.groups.max_groups = 3  # the most confused are kept

  # Stages that train, in order. "subnets" go before the branches, guidance before those ("guided": with the network,
  # in place of "semantic" or after it; "guidance": of the frozen one), "finetune" before all; "control" may follow.
  # "cascade" is one stage for segmenter and branches, and the only one.
  config.order = ("semantic", "detail", "error")
  config.stages = stages_section()

  config.train = ConfigDict()
  config.train.log_every = 50  # steps
  config.train.log_images = 4  # of the choose split, of one size, drawn whenever it is scored; 0: none
  config.train.wandb = ""  # project on Weights & Biases (extra `wandb`) that scalars and images go to as well
  # Devices that share one copy of wide layers (hundreds of millions of numbers); the batch is split over the others.
  config.train.model_devices = 1
  # The backward pass computes what lies between convolutions again: less memory, more time.
  config.train.remat = False
  config.train.select = "best"  # of a stage's scored checkpoints, by the choose split; or "last"

  config.choose = ConfigDict()
  config.choose.calibration = "platt"  # of P_ep; "isotonic"; "none": raw, as the paper uses it
  config.choose.fusions = ("semantic", "mask", "soft", "gate", "mean", "detail")  # candidates; one is taken
  config.choose.thresholds = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of "mask"
  return config


def cascade(config: ConfigDict, features: int = 512) -> ConfigDict:
  """Sets network, branches, stage and fusion to P2 as published (Wang et al. 2017), on the config's backbone.

  The published one is a ResNet-50 at output stride 8.

  Args:
    config: to change.
    features: channels of the fine network's convolution.
  """
  config.segmenter.head = {"name": "fcn", "map_as_high": True}
  config.error_branch = {"name": "attention"}
  config.detail_branch = {"name": "pyramid", "features": features}
  config.order = ("cascade",)
  config.choose.fusions = ("refined",)
  return config


def cascade_exiting_early(config: ConfigDict, features: int = 512) -> ConfigDict:
  """`cascade`, but the fine network learns from every pixel too, and is asked only where the coarse label is doubted.

  As published the fine network learns where the attention lets it, ever less as the coarse branch gets better, and
  ends far below it; with a loss of its own an early exit costs nothing (docs/cascade.md has the figures).

  Args:
    config: to change.
    features: channels of the fine network's convolution.
  """
  config = cascade(config, features)
  config.cascade_loss.fine = 1.0
  config.early_exit.threshold = 0.7
  return config


def guided(config: ConfigDict) -> ConfigDict:
  """Trains the network of a config on together with guidance by image classification (P3, Shen and Zeng 2018).

  The stage is the config's control stage: the same network, trained on for as long. The guidance is as wide as the
  head, the published 512 and 4096 beside one of 256 or more.
  """
  width = min(config.segmenter.head.get("features") or 256, 256)
  config.guidance.features, config.guidance.hidden = 2 * width, 16 * width
  config.stages.guided = config.stages.control.copy_and_resolve_references()
  config.stages.guided.optimizer.multipliers["guidance"] = 2.0  # its layers are new
  config.order = ("semantic", "guided")
  return config


def guided_resnet101(config: ConfigDict, steps: int) -> ConfigDict:
  """Sets network, guidance, stages, views and CRF to P3's ResNet-101 as published (sections 3 and 4.1).

  Args:
    config: to change.
    steps: of a stage.
  """
  config.transform.crop_size = (512, 512)
  config.transform.rotation, config.transform.photometric = 0.0, 0.0
  # Statistics over 8 of 16 images were best.
  config.segmenter.backbone = {"name": "resnet", "depth": 101, "output_stride": 16, "bn_group_size": 8}
  config.segmenter.head = {"name": "local", "dilation": 6}
  config.order = ("guided",)
  sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "power": 0.9, "clip_norm": 0.0}
  for name in ("semantic", "guided", "guidance", "control"):
    config.stages[name] = stage(steps, 1e-2, batch_size=16)
    config.stages[name].optimizer.update(sgd)
  config.views.update(scales=(1.2, 1.0, 0.8), mirror=True, combine="learned")
  config.crf.iterations = 5
  return config


PAPER_ORDER = ("semantic", "finetune", "guided", "guidance", "subnets", "error", "detail", "control")


def paper(config: ConfigDict) -> ConfigDict:
  """Sets branches, losses and fusion to P0 as published (Gong et al. 2021)."""
  config.splits.error_source = "train"
  config.error_branch.prior = "none"
  config.detail_branch.name, config.detail_branch.residual = "detail", False
  config.error_loss.target = "error"
  config.error_loss.w1, config.error_loss.w2, config.error_loss.rho = 1.0, 1.5, 0.95
  config.detail_loss.weights, config.detail_loss.t, config.detail_loss.balance = "mask", 0.7, 0.0
  config.detail_loss.jaccard, config.detail_loss.class_weights = 0.0, ()
  config.detail_loss.pixel = {"name": "cross_entropy"}
  config.error_loss.w3, config.error_loss.w3_min = placeholder(float), 0.001
  config.detail_branch.encoder = "missing"
  config.order = tuple(s for s in PAPER_ORDER if s in config.order)
  config.choose.calibration = "none"
  config.choose.fusions = ("mask",)
  config.choose.thresholds = (0.7,)
  return config


def network_given(config: ConfigDict) -> str:
  """What a run's semantic network is taken from, as a config says it; "" where a stage of the run trains it."""
  if config.segmenter.init:
    return f"config.segmenter.init={config.segmenter.init}"
  return f"config.segmenter.adapter={config.segmenter.adapter.to_dict()}" if config.segmenter.adapter else ""


def given_network(config: ConfigDict) -> ConfigDict:
  """Sets stages and splits for a published network: it was trained on all training images, so only val is unseen."""
  config.order = ("detail", "error")  # no semantic stage: segmenter.init must name the network
  config.splits.choose = config.splits.val  # on each half of it for the other half
  config.train.select = "last"  # no checkpoint is picked by what is reported
  return config


def runlocal(config: ConfigDict) -> ConfigDict:
  """Shrinks stages, crops and branches to a rehearsal of every step on a laptop; its scores mean nothing.

  A semantic stage comes first, from random weights, so that no published weights are needed.
  """
  if "cascade" not in config.order:
    config.order = ("semantic", *(name for name in config.order if name != "semantic"))
  config.transform.crop_size = (65, 65)
  config.loader.threads = 1
  config.train.log_images = 0  # another program to compile for each stage
  config.error_branch.features = 8
  config.detail_branch.features = 8 if config.detail_branch.name == "pyramid" else (8, 8, 8)
  config.subnets.features = 8
  config.guidance.features, config.guidance.hidden = 8, 8
  for name in config.order:
    config.stages[name].steps, config.stages[name].batch_size = 4, 2
  return config
