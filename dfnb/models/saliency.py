"""Where a detector looks: how much attention carries from each patch to the logit of fake.

The patches that enter the last block leave it only through a layer norm, whose gradient is
orthogonal to its input. Gradient times activation of the tokens is therefore zero there, whatever
was learnt. All that the pooled token reads from a patch passes through the attention, so that the
attention is weighed here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dfnb import UserError
from dfnb.models.clip import Clip
from dfnb.models.encoder import by_heads, enter

HELD = 2**25  # attention weights held at once: 441 crops of the tiny CLIP, 6 of ViT-B/16


class NoMaps(UserError):
    """A detector whose logit cannot be followed back to the patches of an image encoder."""


def maps(encoder: nn.Module, logit: Callable[[torch.Tensor], torch.Tensor], clip: Clip, view, *,
         blocks: int | None = None) -> np.ndarray:
    """Return the relevance (n, side, side) float32, at least 0, of each patch for the logit.

    `logit` maps the encoder's pooled features (n, width) to (n,). With A the attention
    (heads, tokens, tokens) of a block and G the gradient of the logit with respect to it, the
    relevance is the class token's row of R = prod (1 + mean_heads (A G)+) over the last `blocks`
    blocks (None: all), from the last down (Chefer et al., ICCV 2021, eq. 5 and 6). Maps of one
    detector can be compared with each other, not with those of another.
    """
    layers = len(encoder.encoder.layers)
    if blocks is not None and not 1 <= blocks <= layers:
        raise UserError(f"blocks must lie between 1 and the encoder's {layers}, got {blocks}")
    first, side = layers - (blocks or layers), round((clip.tokens - 1) ** 0.5)
    heads = encoder.encoder.layers[0].self_attn.num_heads
    step = max(1, HELD // (heads * clip.tokens**2 * (layers - first)))
    read, result = clip.pixel_reader(view), np.empty((len(view), side * side), np.float32)
    for start in range(0, len(view), step):
        rows = np.arange(start, min(start + step, len(view)))
        result[rows] = _relevance(encoder, logit, read(rows), first)[:, 1:].cpu().numpy()
    return result.reshape(-1, side, side)


def _relevance(encoder: nn.Module, logit: Callable, pixels: torch.Tensor,
               first: int) -> torch.Tensor:
    """Return the class token's row (n, tokens) of R, from block `first` on."""
    with torch.enable_grad():
        hidden, attentions = enter(encoder, pixels, first).detach().requires_grad_(), []
        for layer in encoder.encoder.layers[first:]:
            hidden, attention = attend(layer, hidden)
            attentions.append(attention)
        pooled = encoder.post_layernorm(hidden[:, 0])
        gradients = torch.autograd.grad(logit(pooled).sum(), attentions)
    row = torch.zeros(hidden.shape[:2], device=hidden.device)
    row[:, 0] = 1
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        carried = (attention.detach() * gradient).clamp(min=0).mean(dim=1)  # (n, tokens, tokens)
        row = row + torch.einsum("nq,nqk->nk", row, carried)
    return row


def attend(layer: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output (n, tokens, width) of a block and its attention (n, heads, tokens, tokens).

    `hidden` (n, tokens, width) enters the block.
    """
    block = layer.self_attn
    query, key, value = by_heads(block, layer.layer_norm1(hidden))
    attention = (query @ key.transpose(-1, -2) * block.scale).softmax(dim=-1)
    hidden = hidden + block.out_proj((attention @ value).transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.layer_norm2(hidden)), attention
