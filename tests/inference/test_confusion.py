import json

import numpy as np
import pytest

from errseg_jax.errors import UserError
from errseg_jax.inference.confusion import MAX_BYTES, load_confusion

GOOD = {"schema": 1, "classes": ["a", "b"], "counts": [[5, 1], [0, 2**40]]}


def test_a_good_file_is_read(tmp_path):
  path = tmp_path / "train.json"
  path.write_text(json.dumps(GOOD))
  counts, classes = load_confusion(path)
  np.testing.assert_array_equal(counts, GOOD["counts"])
  assert (counts.dtype, classes) == (np.int64, ("a", "b"))


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "damaged"),
    ("[" * 100_000, "damaged"),
    ("\x00", "damaged"),
    ("[]", "no confusion matrix of this version"),
    (json.dumps({**GOOD, "schema": 2}), "of this version"),
    (json.dumps({"schema": 1}), "classes must be 2"),
    (json.dumps({**GOOD, "classes": ["a", 1]}), "names"),
    (json.dumps({**GOOD, "classes": ["a"] * 256}), "2 to 255"),
    (json.dumps({**GOOD, "classes": ["a", "b", "c"]}), "each of the 3 classes"),
    (json.dumps({**GOOD, "counts": None}), "each of the 2 classes"),
    (json.dumps({**GOOD, "counts": [[5, 1], [1]]}), "each of the 2 classes"),
    (json.dumps({**GOOD, "counts": [[5, 1], {"0": 1, "1": 2}]}), "each of the 2 classes"),
    (json.dumps({**GOOD, "counts": [[5, 1], [-1, 2]]}), "0 or more"),
    (json.dumps({**GOOD, "counts": [[5, 1], [True, 2]]}), "whole numbers"),
    (json.dumps({**GOOD, "counts": [[5, 1], [0.5, 2]]}), "whole numbers"),
    (json.dumps({**GOOD, "counts": [[5, 1], [float("nan"), 2]]}), "whole numbers"),
    (json.dumps({**GOOD, "counts": [[5, 1], [10**30, 2]]}), "whole numbers"),
    (" " * (MAX_BYTES + 1), "larger than 16 MiB"),
  ],
)
def test_any_other_file_is_refused_in_one_line(tmp_path, text, words):
  path = tmp_path / "train.json"
  path.write_text(text)
  with pytest.raises(UserError, match=words) as caught:
    load_confusion(path)
  assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(UserError, match="errseg confusion --workdir"):
    load_confusion(tmp_path / "train.json")
  with pytest.raises(UserError, match="cannot be read"):
    load_confusion(tmp_path)
