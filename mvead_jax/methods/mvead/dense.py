"""Epipolar attention over all patches of all views at once: the definition, and the yardstick of `banded`.

Every patch looks at every patch of the sample and the mask forbids all but those on its epipolar lines, so
the cost grows with (V N)² however narrow the lines are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mvead_jax.runtime.plain import mapped


def masked_attention(
    query: Float[Array, "Q N H d"],
    key: Float[Array, "V N H d"],
    value: Float[Array, "V N H d"],
    mask: Bool[Array, "Q V N N"],
    present: Bool[Array, " V"] | None = None,
) -> Float[Array, "Q N H d"]:
    """Σ_k softmax(q_j·k_k / √d) v_k over the patches k of all views that patch j may see (MVEAD eq. 5-6).

    One softmax runs over the keys of all supporting views together (decision D3). A patch without a key
    gives 0 (D6), and its gradient is 0. Float32 throughout, for one sample; vmap over samples.

    Args:
      query, key, value: of H heads, not yet scaled; finite, also in absent views. Queries may be of Q of the V views.
      mask: mask[a, b, j, k]: may patch j of view a attend to patch k of view b?
      present: views of this sample that exist; nobody attends to the others. None: all.
    """
    *_, heads, width = query.shape
    if present is not None:
        mask = mask & present[None, :, None, None]
    allowed = mask.transpose(0, 2, 1, 3).reshape(-1, mask.shape[1] * mask.shape[3])

    # One head after the other, recomputed in the gradient: the logits of all 12 heads at once take up to nine
    # times the memory, and on a CPU two to three times as long (forward; the gradient 1.0 to 1.3 times).
    @jax.checkpoint
    def one_head(qkv: tuple[Float[Array, "VN d"], ...]) -> Float[Array, "VN d"]:
        q, k, v = qkv
        logits = jnp.einsum("qd,kd->qk", q * width**-0.5, k, precision="highest")
        logits = jnp.where(allowed, logits, -jnp.inf)
        # Any number serves as the maximum of a row without keys, but not -inf, which leaves inf - inf.
        top = jnp.maximum(logits.max(axis=1, keepdims=True), jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - jax.lax.stop_gradient(top))
        total = weights.sum(axis=1, keepdims=True)
        # Divided after the product: see backbone.dinov2.Attention.
        return jnp.einsum("qk,kd->qd", weights, v, precision="highest") / jnp.where(total > 0, total, 1)

    qkv = (x.reshape(-1, heads, width).transpose(1, 0, 2) for x in (query, key, value))
    mixed = mapped(one_head, tuple(qkv))  # [H,QN,d]
    return mixed.transpose(1, 0, 2).reshape(query.shape)
