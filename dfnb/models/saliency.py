"""Where a detector looks: per patch, how much the attention of its tower carries towards the logit of fake.

The patches that enter the last block leave it only through a layer norm, whose gradient is orthogonal to its input:
gradient times activation of the tokens is zero there, whatever was learnt. All that the pooled token reads from a
patch passes through the attention, so that is what is weighed here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dfnb import UserError
from dfnb.models.encoder import by_heads, enter

CELLS = 2**25  # attention weights of all blocks and heads held at once: 441 crops of the tiny CLIP, 6 of ViT-B/16


def maps(detector, view, *, blocks: int | None = None) -> np.ndarray:
    """float32 (n, side, side), not negative: relevance of each patch of each crop for the logit of fake.

    A detector with `maps(view)` of its own is asked. Else, with A the attention (heads, tokens, tokens) of a block
    and G the gradient of the logit with respect to it, the class token's row of R = prod (1 + mean_heads (A G)+) over
    the last `blocks` blocks (None: all), from the last down (Chefer et al., ICCV 2021, eq. 5 and 6). Maps of one
    detector can be compared with each other, not with those of another. NoTower for a detector that has none.
    """
    if hasattr(detector, "maps"):
        return np.asarray(detector.maps(view), np.float32)
    tower, logit = _parts(detector)
    clip, layers = detector.clip, len(tower.encoder.layers)
    if blocks is not None and not 1 <= blocks <= layers:
        raise UserError(f"blocks must lie between 1 and the tower's {layers}, got {blocks}")
    first, side = layers - (blocks or layers), round((clip.tokens - 1) ** 0.5)
    heads = tower.encoder.layers[0].self_attn.num_heads
    step, read = max(1, CELLS // (heads * clip.tokens**2 * (layers - first))), clip.pixel_reader(view)
    found = np.empty((len(view), side * side), np.float32)
    for start in range(0, len(view), step):
        rows = np.arange(start, min(start + step, len(view)))
        found[rows] = _relevance(tower, logit, read(rows), first)[:, 1:].cpu().numpy()
    return found.reshape(-1, side, side)


class NoTower(UserError):
    """A detector that reads no patches, or none that could be followed."""


def _parts(detector) -> tuple[nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
    """The image tower of a detector, and what makes a logit of fake (n,) of its pooled feature (n, width)."""
    model = getattr(detector, "model", None)
    if hasattr(model, "tower"):  # tuned: lora, full, layernorm
        tower = model.tower.get_base_model() if hasattr(model.tower, "get_base_model") else model.tower
        return tower, getattr(model, "logit", lambda pooled: model.head(pooled).squeeze(-1))
    frozen = detector.clip.model if hasattr(detector, "clip") else None
    if hasattr(detector, "weight") and detector.card["options"]["features"] == "pooled":  # a probe
        return frozen.vision_model, lambda pooled: pooled @ _like(detector.weight, pooled)
    if hasattr(detector, "weight"):
        weigh = lambda features: features @ _like(detector.weight, features)  # noqa: E731
    elif hasattr(detector, "text"):  # zero_shot; the scale of all logits is left out
        weigh = lambda features: features @ _like(detector.text[1] - detector.text[0], features)  # noqa: E731
    elif hasattr(model, "text"):  # prompt
        weigh = model
    else:
        raise NoTower(f"a detector of the kind {type(detector).__name__} has no image tower and no maps of its own")
    project = frozen.visual_projection
    return frozen.vision_model, lambda pooled: weigh(nn.functional.normalize(project(pooled), dim=-1))


def _like(weights: np.ndarray, features: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(weights, dtype=features.dtype, device=features.device)


def _relevance(tower: nn.Module, logit: Callable, pixels: torch.Tensor, first: int) -> torch.Tensor:
    """The class token's row (n, tokens) of R, from block `first` on."""
    with torch.enable_grad():
        hidden, attentions = enter(tower, pixels, first).detach().requires_grad_(), []
        for layer in tower.encoder.layers[first:]:
            hidden, attention = attend(layer, hidden)
            attentions.append(attention)
        gradients = torch.autograd.grad(logit(tower.post_layernorm(hidden[:, 0])).sum(), attentions)
    row = torch.zeros(hidden.shape[:2], device=hidden.device)
    row[:, 0] = 1
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        carried = (attention.detach() * gradient).clamp(min=0).mean(dim=1)  # (n, tokens, tokens)
        row = row + torch.einsum("nq,nqk->nk", row, carried)
    return row


def attend(layer: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What leaves a block, (n, tokens, width) as what enters it, and its attention (n, heads, tokens, tokens)."""
    block = layer.self_attn
    query, key, value = by_heads(block, layer.layer_norm1(hidden))
    attention = (query @ key.transpose(-1, -2) * block.scale).softmax(dim=-1)
    hidden = hidden + block.out_proj((attention @ value).transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.layer_norm2(hidden)), attention
