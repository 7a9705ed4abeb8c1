"""Pixels go from stage to stage while everything before was unsure of them."""

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.models.layer_cascade import LayerCascade
from errseg_jax.structs import Features

B, H, W, C = 2, 32, 48, 3


def test_a_pixel_keeps_the_logits_of_the_first_stage_that_is_sure_of_it():
  keys = jax.random.split(jax.random.key(0), 4)
  features = Features(
    logits=3 * jax.random.normal(keys[0], (B, H // 4, W // 4, C)),
    low=tuple(jax.random.normal(keys[i], (B, H // 2**i, W // 2**i, 4)) for i in (1, 2, 3)),
    strides=(2, 4, 8),
  )
  semantic = 3 * jax.random.normal(keys[0], (B, H, W, C))
  image = jnp.zeros((B, H, W, 3), jnp.uint8)
  model = LayerCascade(C, (4, 4, 4), rho=0.8)
  (logits, stages), variables = jax.jit(model.init_with_output)(keys[1], image, features, semantic)
  (second, to_second), (third, to_third) = stages
  unsure = np.asarray(jax.nn.softmax(semantic).max(-1)) <= 0.8
  np.testing.assert_array_equal(to_second, unsure)
  np.testing.assert_array_equal(to_third, unsure & (np.asarray(jax.nn.softmax(second).max(-1)) <= 0.8))
  want = np.where(to_second[..., None], np.where(to_third[..., None], third, second), semantic)
  np.testing.assert_array_equal(logits, want)
  assert to_third.any()
  assert not unsure.all()
  assert set(variables["params"]) == {"stage2", "stage3"}
