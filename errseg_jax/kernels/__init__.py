"""Fused operations: from low-resolution maps to losses and labels, without a class map at the image's size.

Each operation has three forms of the same arithmetic: the reference, which is what `losses` and `inference` compute
from full-size logits; `banded` in plain jnp, for any device and size; and Pallas kernels for TPU and GPU. `dispatch`
chooses.
"""

from errseg_jax.kernels.dispatch import CHOICES, fused_counts, fused_labels, fused_sums
from errseg_jax.kernels.terms import DetailTerms, Labels, Sums, Terms

__all__ = ["CHOICES", "DetailTerms", "Labels", "Sums", "Terms", "fused_counts", "fused_labels", "fused_sums"]
