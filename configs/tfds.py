"""Any data set that tensorflow-datasets has prepared as array_record, named behind the colon.

    errseg train --config=configs/tfds.py:NAME --config.data.root=DATA_DIR --config.data.num_classes=21 --workdir=W

`errseg data convert --to=tfds` prepares any other data set so. TensorFlow is not needed. Settings as in folders.py.
"""

from errseg_jax.config import default_config, stage
from errseg_jax.errors import UserError


def get_config(arg=None):
  if not arg:
    raise UserError("name the data set, for example --config=configs/tfds.py:my_set")
  config = default_config()
  config.data = {
    "name": "tfds",
    "dataset": arg,
    "root": "",
    "image_key": "",
    "label_key": "",
    "num_classes": 0,
    "class_names": (),
  }
  config.stages.semantic = stage(20_000, 1e-3, weight_decay=1e-4, eval_every=2000)
  config.stages.detail = stage(10_000, 1e-3, eval_every=2000)
  config.stages.error = stage(3000, 1e-3, eval_every=1000)
  config.stages.control = stage(13_000, 5e-4, weight_decay=1e-4, eval_every=2000)
  return config
