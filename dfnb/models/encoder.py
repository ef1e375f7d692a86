"""The blocks of CLIP's image tower, entered and left where a method wants, and no more computed than it needs.

A tower is the `vision_model` of a `transformers.CLIPModel`; what PEFT has wrapped in it stays a block like the others.
"""

import torch
import torch.nn.functional as F
from torch import nn


def enter(tower: nn.Module, pixels: torch.Tensor, block: int) -> torch.Tensor:
    """The activations (n, tokens, width) that enter `block` of an image tower."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:block]:
        hidden = layer(hidden, None)
    return hidden


def leave(tower: nn.Module, hidden: torch.Tensor, block: int) -> torch.Tensor:
    """From the activations that enter `block` of an image tower to its pooled features (n, width)."""
    for layer in tower.encoder.layers[block:-1]:
        hidden = layer(hidden, None)
    if block < len(tower.encoder.layers):
        return tower.post_layernorm(class_token(tower.encoder.layers[-1], hidden))
    return tower.post_layernorm(hidden[:, 0])


def class_token(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The class token (n, width) that leaves a block, from all tokens (n, tokens, width) that enter it.

    Only this token of the last block is pooled. So the others need no query and no MLP there, and not even a key of
    their own, as q (K x + b) = (q K) x + q b, or a value (`mix`): width / heads times fewer products.
    """
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    query, weight, bias = (
        part.unflatten(-1, (attention.num_heads, -1))
        for part in (attention.q_proj(normed[:, 0]) * attention.scale, attention.k_proj.weight.T, attention.k_proj.bias)
    )
    asked = torch.einsum("nhd,whd->nhw", query, weight)
    heard = asked @ normed.transpose(1, 2) + (query * bias).sum(-1, keepdim=True)
    text = mix(attention.v_proj, heard.softmax(-1), normed)
    token = hidden[:, 0] + attention.out_proj(text.flatten(1))
    return token + layer.mlp(layer.layer_norm2(token))


def mix(values: nn.Module, shares: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """What each head gets (n, heads, width / heads): its values of `tokens` (n, tokens, width), by their `shares`.

    A sum of projections is the projection of the sum, so the tokens are summed first. `shares` (n, heads, tokens) sum
    to one. Where PEFT has wrapped the projection, its `weight` is the frozen one, and B A is added here.
    """
    heads = shares.shape[1]
    text = torch.einsum("nhw,hdw->nhd", shares @ tokens, values.weight.unflatten(0, (heads, -1)))
    text = text + values.bias.unflatten(0, (heads, -1))
    if not hasattr(values, "lora_A"):
        return text
    parts = values.lora_dropout, values.lora_A, values.lora_B, values.scaling
    dropout, down, up, scale = (part["default"] for part in parts)
    rows = up.weight.unflatten(0, (heads, -1))
    return text + scale * torch.einsum("nhr,hdr->nhd", down(shares @ dropout(tokens)), rows)


def trace(layer: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (n, heads, tokens, width / heads) of a block, and what leaves it (n, tokens, width)."""
    attention = layer.self_attn
    query, key, value = by_heads(attention, layer.layer_norm1(hidden))
    text = F.scaled_dot_product_attention(query, key, value, scale=attention.scale).transpose(1, 2)
    hidden = hidden + attention.out_proj(text.flatten(2))
    return query, key, value, hidden + layer.mlp(layer.layer_norm2(hidden))


def by_heads(attention: nn.Module, normed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (n, heads, tokens, width / heads) of normed tokens (n, tokens, width)."""
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    return tuple(of(normed).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2) for of in projections)
