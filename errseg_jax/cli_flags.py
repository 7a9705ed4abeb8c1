"""The flags of every command, and what each means."""

OWN_FLAGS = {
  "train": {"--config", "--workdir", "--distributed"},
  "evaluate": {"--workdir", "--distributed", "--split", "--scores", "--confidnet", "--oracle"},
  "predict": {"--workdir", "--output", "--distributed"},
  "report": {"--workdir", "--show"},
  "serve": {"--workdir", "--host", "--port", "--limit", "--megapixels"},
  "label-issues": {"--workdir", "--split", "--top", "--out", "--by"},
  "compare": {"--classes", "--json"},
  "confusion": {"--workdir", "--split", "--json"},
  "tune": {"--workdir"},
  "ablate": {"--distributed", "--config", "--workdir", "--rows", "--seeds"},
  "data check": {"--config", "--split", "--json"},
  "data stats": {"--config", "--split", "--out", "--json"},
  "data convert": {"--config", "--split", "--to", "--out", "--shards", "--workers"},
  "data extract": {"--config", "--workdir", "--split", "--out", "--stride", "--passes", "--distributed"},
  "convert": {"--from", "--weights", "--out", "--drop"},
  "export": {"--workdir", "--out", "--sizes"},
  "bench": {"--config", "--what", "--size", "--workdir", "--split", "--json"},
  "plan": {"--config", "--devices", "--price", "--json"},
  "submit": {"--to", "--predictions", "--images", "--list", "--out", "--labels"},
  "doctor": set(),
}
FLAG_HELP = {
  "--config": "FILE[:arg] of an experiment, as configs/scenes_demo.py",
  "--workdir": "folder of the run",
  "--split": "split to read; by default the one that is reported (label-issues, data stats: that trains; data check: "
  "all); confusion: train (default) and choose are the images that the semantic network was trained and chosen on",
  "--scores": "further error scores, which cost further passes: mc_dropout,tta or one of them",
  "--confidnet": "error detection by ConfidNet's convention too: void is an error",
  "--oracle": "score the labels restricted to the classes that each image's annotation shows, too",
  "--output": "folder for the results; by default WORKDIR/predictions",
  "--from": "name of the published network, as torchvision_deeplabv3; docs/convert.md lists them",
  "--weights": "its file: .pth, .pt, .safetensors, .npz or .h5",
  "--out": "the workdir to make; for a backbone alone, the .npz; label-issues, data stats: folder for the results; "
  "data convert: folder for the shards; data extract: for the scores; export: for the network; "
  "submit: the archive, FILE.zip, of voc FILE.tgz",
  "--to": "data convert: array_record, the default, read back with --config.loader.shards=DIR, or tfds, a data set for "
  "tensorflow-datasets; submit: cityscapes, ade20k or voc",
  "--predictions": "the folder that `errseg predict` wrote",
  "--images": "the folder of the test images, or of folders of them",
  "--list": "file with the name of a test image a line, where that folder holds others too",
  "--labels": "corrected (default), or labels of the frozen network",
  "--shards": "files that each split is cut into; by default 16",
  "--workers": "threads that write; by default as many as there are cores",
  "--stride": "data extract: how many times smaller the maps of scores are than the images; by default 4",
  "--passes": "data extract: writes features of that many augmented views of each image in place of scores, to train "
  "branches from with --config.loader.features=DIR",
  "--top": "regions to list and show; by default 100",
  "--by": "max_probability (the frozen network alone; default) or error_map (P(error) and the corrected labels)",
  "--drop": "head: keep the backbone alone, for another number of classes; class0: the first class, where it is void",
  "--what": "size: parameters and multiply-adds of each part, the default; model: those and the time of each branch; "
  "train: a training step of each stage; data: how fast its images come; "
  "early_exit: of the trained cascade in --workdir, time against mIoU as the threshold of its early exit moves; "
  "sparse: of the trained detail branch there, time against mIoU as it works on fewer tiles; "
  "views: what views of doubtful tiles gain and cost beside views of whole images; "
  "without a config guided_filter: time of the guidance CRF's filter by radius; crf: of the CRF; kernels: time and "
  "memory of the fused loss and labels; pytorch: DeepLabv3+ here and in PyTorch, where that is installed; "
  "all: all of these that want no trained run",
  "--size": "HEIGHTxWIDTH of the image in pixels; by default 513x513, of kernels 1025x2049, of pytorch 512x512",
  "--sizes": "of images, HEIGHTxWIDTH in pixels with commas between; by default all that the reported split comes to",
  "--rows": "names of rows, or a family (correction, confusion, guidance, bn_groups), with commas between; by default "
  "correction",
  "--seeds": "how many, from the config's seed on; by default 3",
  "--distributed": "auto (default): work together with the other processes that JAX_COORDINATOR_ADDRESS, "
  "JAX_NUM_PROCESSES and JAX_PROCESS_ID, SLURM, Open MPI or a TPU slice tell of; off: alone",
  "--devices": "v5e-64, v4-8, h100x8, ...: what to plan for; cpu: this machine",
  "--price": "of one device for an hour, in any currency",
  "--host": "address to listen on; by default 127.0.0.1, which only this machine reaches",
  "--port": "by default 8000; 0 takes a free one",
  "--limit": "MB that an uploaded file may have; by default 20",
  "--megapixels": "that an uploaded image may have; by default 4",
  "--show": "images that the report shows, half of them the worst; by default 24",
  "--classes": "the IoU of each class, too",
  "--json": "print one JSON object in place of a table",
}
SWITCHES = ("--json", "--classes", "--confidnet", "--oracle")
WORDS = {
  "predict": ("images", "+", "image files or folders"),
  "report": ("workdirs", "*", "folders of runs, in place of --workdir; several stand side by side"),
  "compare": ("workdirs", "+", "folders of runs, two or more; differences are to the first"),
}
"""What a command takes beside flags: name, how many, meaning."""
FLAG_DEFAULTS = {
  "--distributed": "auto",
  "--seeds": "3",
  "--shards": "16",
  "--top": "100",
  "--stride": "4",
  "--show": "24",
  "--host": "127.0.0.1",
  "--port": "8000",
  "--limit": "20",
  "--megapixels": "4",
}
