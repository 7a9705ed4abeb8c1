"""Files of each kind, written by the libraries that write them."""

import numpy as np
import pytest

from errseg_jax.convert.formats import read_arrays
from errseg_jax.errors import UserError

ARRAYS = {
  "layer1.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "layer1.0.bias": np.ones(2, np.float32),
}


def refused(path, *words):
  with pytest.raises(UserError) as caught:
    read_arrays(path)
  message = str(caught.value)
  assert "\n" not in message
  for word in (str(path), *words):
    assert word in message, message


def same(arrays, expected=ARRAYS):
  assert arrays.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[name], array)


def write_npz(path, arrays):
  np.savez(path, **arrays)


def write_safetensors(path, arrays):
  from safetensors.numpy import save_file

  save_file(arrays, path)


def write_torch(path, arrays):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def write_keras(path, arrays):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = [b"layer1"]
    group = file.create_group("layer1")
    group.attrs["weight_names"] = [f"layer1/{name}:0".encode() for name in arrays]
    for name, array in arrays.items():
      group[f"layer1/{name}:0"] = array


WRITERS = {".npz": write_npz, ".safetensors": write_safetensors, ".pth": write_torch, ".pt": write_torch}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_gives_its_arrays(tmp_path, suffix):
  WRITERS[suffix](tmp_path / f"w{suffix}", ARRAYS)
  same(read_arrays(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_wrapper_s_prefix_goes_where_every_name_has_it(tmp_path, suffix):
  WRITERS[suffix](tmp_path / f"w{suffix}", {f"module.{name}": array for name, array in ARRAYS.items()})
  same(read_arrays(tmp_path / f"w{suffix}"))
  one = {"module.a": np.ones(2), "b": np.ones(3)}
  WRITERS[suffix](tmp_path / f"one{suffix}", one)
  same(read_arrays(tmp_path / f"one{suffix}"), one)


def test_wrappers_inside_one_another_and_files_by_other_names(tmp_path):
  write_npz(tmp_path / "w.npz", {f"model._orig_mod.module.{name}": array for name, array in ARRAYS.items()})
  same(read_arrays(tmp_path / "w.npz"))
  for name in ("epoch=3.ckpt", "best.pth.tar"):
    write_torch(tmp_path / name, ARRAYS)
    same(read_arrays(tmp_path / name))


@pytest.mark.parametrize("suffix", [*WRITERS, ".h5"])
def test_a_damaged_file_is_one_line(tmp_path, suffix):
  writer = write_keras if suffix == ".h5" else WRITERS[suffix]
  path = tmp_path / f"w{suffix}"
  refused(path, "does not exist")
  writer(path, {"kernel": np.arange(4000, dtype=np.float32)})
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  refused(path, "truncated")
  path.write_text("<html>not found</html>")
  refused(path, "another format")
  path.write_bytes(b"")
  refused(path, "truncated")


def test_torch_files_that_end_too_soon_or_hold_other_things(tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  for content in (b"\x80", b"\x80\x02abc"):
    (tmp_path / "w.pth").write_bytes(content)
    refused(tmp_path / "w.pth", "truncated")
  torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "w.pth")
  refused(tmp_path / "w.pth", "sparse")
  torch.save({0: torch.eye(3)}, tmp_path / "w.pth")
  refused(tmp_path / "w.pth", "state_dict()")


def test_an_unknown_or_undumped_file_says_what_to_do(tmp_path):
  (tmp_path / "w.onnx").write_bytes(b"x")
  refused(tmp_path / "w.onnx", "known are .pth")
  for name in ("model.ckpt-30000.index", "voc_rna-a1.params", "model.ckpt.data-00000-of-00001"):
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, "docs/convert.md")


def test_pickled_objects_are_never_run(tmp_path):
  np.savez(tmp_path / "w.npz", a=np.array([{}], dtype=object))
  refused(tmp_path / "w.npz", "pickled")
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
  refused(tmp_path / "w.pth", "pickled", "state_dict()")


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_beside_an_optimizer_are_found(tmp_path, key):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  state = {f"module.{name}": torch.from_numpy(array) for name, array in ARRAYS.items()}
  torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, key: state}, tmp_path / "w.pth")
  same(read_arrays(tmp_path / "w.pth"))
  torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "none.pth")
  refused(tmp_path / "none.pth", "epoch, optimizer", "state_dict()")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_becomes_float32(tmp_path, kind):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  torch.save({"a": torch.ones(3, dtype=getattr(torch, kind))}, tmp_path / "w.pth")
  array = read_arrays(tmp_path / "w.pth")["a"]
  assert array.dtype == np.float32
  np.testing.assert_array_equal(array, np.ones(3))


def test_safetensors_in_bfloat16_become_float32(tmp_path):
  import ml_dtypes

  write_safetensors(tmp_path / "w.safetensors", {"a": np.ones(3, ml_dtypes.bfloat16)})
  assert read_arrays(tmp_path / "w.safetensors")["a"].dtype == np.float32


@pytest.mark.parametrize(
  ("kernel", "bias"), [("kernel", "bias"), ("layer1_W_1", "layer1_b_1"), ("layer1_W", "layer1_b")]
)
def test_keras_names_are_layer_and_kind(tmp_path, kernel, bias):
  """The same layer as Keras 2 and Keras 1 name it."""
  write_keras(tmp_path / "w.h5", {kernel: np.ones((3, 3)), bias: np.zeros(3)})
  same(read_arrays(tmp_path / "w.h5"), {"layer1/kernel": np.ones((3, 3)), "layer1/bias": np.zeros(3)})


def test_a_whole_keras_model_is_read_and_one_without_names_refused(tmp_path):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  write_keras(tmp_path / "w.h5", {"kernel": np.ones(3)})
  with h5py.File(tmp_path / "w.h5", "r") as weights, h5py.File(tmp_path / "model.h5", "w") as model:
    model.create_group("model_weights")
    model["model_weights"].attrs["layer_names"] = weights.attrs["layer_names"]
    weights.copy("layer1", model["model_weights"])
  same(read_arrays(tmp_path / "model.h5"), {"layer1/kernel": np.ones(3)})
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["x"] = np.ones(3)
  refused(tmp_path / "other.h5", "layer names")


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
  import sys

  for suffix, module, words in ((".pth", "torch", "pip install torch"), (".h5", "h5py", "errseg-jax[keras]")):
    (tmp_path / f"w{suffix}").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    refused(tmp_path / f"w{suffix}", words)
