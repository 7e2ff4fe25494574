"""Attention over the patches of other views that a mask allows, in its plain dense form."""

from __future__ import annotations

import jax.numpy as jnp


def masked_attention(query, key, value, mask, present=None):
    views, patches, heads, width = key.shape
    if present is not None:
        mask = mask & jnp.asarray(present)[None, :, None, None]
    allowed = mask.transpose(0, 2, 1, 3).reshape(*query.shape[:2], views * patches)
    keys = key.reshape(views * patches, heads, width)
    values = value.reshape(views * patches, heads, width)
    logits = jnp.einsum("vqhd,khd->vhqk", query * width**-0.5, keys, precision="highest")
    logits = jnp.where(allowed[:, None], logits, -jnp.inf)
    top = jnp.maximum(logits.max(-1, keepdims=True), jnp.finfo(logits.dtype).min)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1)
    mixed = jnp.einsum("vhqk,khd->vqhd", weights, values, precision="highest")
    return mixed / jnp.where(total > 0, total, 1).transpose(0, 2, 1)[..., None]
