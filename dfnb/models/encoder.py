"""Enter and leave CLIP's image encoder at any block, and compute no more than a caller needs.

An encoder is the `vision_model` of a `transformers.CLIPModel`. PEFT may have wrapped its
projections.
"""

import torch
import torch.nn.functional as F
from torch import nn


def enter(encoder: nn.Module, pixels: torch.Tensor, block: int) -> torch.Tensor:
    """Return the activations (n, tokens, width) that enter `block`."""
    hidden = encoder.pre_layrnorm(encoder.embeddings(pixels))
    for layer in encoder.encoder.layers[:block]:
        hidden = layer(hidden, None)
    return hidden


def leave(encoder: nn.Module, hidden: torch.Tensor, block: int) -> torch.Tensor:
    """Return the pooled features (n, width) of the activations that enter `block`."""
    layers = encoder.encoder.layers
    for layer in layers[block:-1]:
        hidden = layer(hidden, None)
    token = class_token(layers[-1], hidden) if block < len(layers) else hidden[:, 0]
    return encoder.post_layernorm(token)


def class_token(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return the class token (n, width) that leaves a block which all tokens enter.

    q (K x + b) = (q K) x + q b, and only the class token of the last block is pooled. The other
    tokens therefore need no query, no MLP, no key and no value (`mix`) in that block. This takes
    width / heads times fewer products.
    """
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    query = attention.q_proj(normed[:, 0]) * attention.scale
    query, weight, bias = (
        part.unflatten(-1, (attention.num_heads, -1))
        for part in (query, attention.k_proj.weight.T, attention.k_proj.bias))
    projected = torch.einsum("nhd,whd->nhw", query, weight)  # q K
    logits = projected @ normed.transpose(1, 2) + (query * bias).sum(-1, keepdim=True)
    mixed = mix(attention.v_proj, logits.softmax(-1), normed)
    token = hidden[:, 0] + attention.out_proj(mixed.flatten(1))
    return token + layer.mlp(layer.layer_norm2(token))


def mix(values: nn.Module, shares: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return each head's values (n, heads, width / heads) of `tokens`, weighted by `shares`.

    `shares` (n, heads, tokens) sum to one. The projection of a sum is the sum of the projections,
    so the tokens are summed first. For a projection that PEFT has wrapped, `values.weight` is the
    frozen weight, and B A is added here.
    """
    heads = shares.shape[1]
    weight = values.weight.unflatten(0, (heads, -1))
    mixed = torch.einsum("nhw,hdw->nhd", shares @ tokens, weight)
    mixed = mixed + values.bias.unflatten(0, (heads, -1))
    if not hasattr(values, "lora_A"):
        return mixed
    parts = values.lora_dropout, values.lora_A, values.lora_B, values.scaling
    dropout, down, up, scale = (part["default"] for part in parts)
    weight = up.weight.unflatten(0, (heads, -1))
    return mixed + scale * torch.einsum("nhr,hdr->nhd", down(shares @ dropout(tokens)), weight)


def trace(layer: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values as `by_heads` does, and the tokens that leave a block."""
    attention = layer.self_attn
    query, key, value = by_heads(attention, layer.layer_norm1(hidden))
    mixed = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return query, key, value, hidden + layer.mlp(layer.layer_norm2(hidden))


def by_heads(attention: nn.Module, normed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values (n, heads, tokens, width / heads) of normed tokens."""
    shape = (attention.num_heads, attention.head_dim)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    return tuple(of(normed).unflatten(-1, shape).transpose(1, 2) for of in projections)
