"""Blocks of the image tower in pieces: whatever is left out, values and gradients are those of the whole."""

import pytest
import torch
import torch.nn.functional as F

from dfnb.detectors import lora
from dfnb.models.encoder import class_token, enter, leave


@pytest.fixture
def pixels(clip):
    return torch.randn(5, 3, clip.size, clip.size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def adapted(clip, pixels):
    """The last block of a tower under LoRA with B away from zero and much dropout, and the tokens that enter it."""
    tower = lora.adapt(clip.vision_tower(), rank=4, alpha=8, dropout=0.5, blocks=1).get_base_model()
    layer = tower.encoder.layers[-1]
    with torch.no_grad():
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            projection.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(2))
    return layer, enter(tower, pixels, clip.layers - 1)


def test_the_two_halves_of_the_tower_make_the_whole(clip, pixels):
    tower = clip.vision_tower()
    whole = tower(pixels).pooler_output
    for block in range(clip.layers + 1):
        torch.testing.assert_close(leave(tower, enter(tower, pixels, block), block), whole)
    torch.testing.assert_close(clip.tower(pixels), whole)


def test_every_weight_gets_the_gradient_of_the_whole(clip, pixels):
    tower, weights = clip.vision_tower(), torch.arange(clip.width) / clip.width
    named = {name: value for name, value in tower.named_parameters() if "position" not in name}
    wholes, halves = (
        torch.autograd.grad((pooled * weights).sum(), list(named.values()))
        for pooled in (tower(pixels).pooler_output, leave(tower, enter(tower, pixels, 0), 0))
    )
    for name, whole, half in zip(named, wholes, halves, strict=True):
        torch.testing.assert_close(half, whole, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("training", [False, True])
def test_an_adapted_class_token_is_that_of_all_tokens_and_drops_the_same_of_them(adapted, training):
    layer, hidden = adapted
    attention, normed = layer.train(training).self_attn, layer.layer_norm1(hidden)
    torch.manual_seed(3)
    query, key, value = (
        projection(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection, tokens in (
            (attention.q_proj, normed[:, :1]), (attention.k_proj, normed), (attention.v_proj, normed))
    )
    text = F.scaled_dot_product_attention(query, key, value, scale=attention.scale).flatten(1)
    token = hidden[:, 0] + attention.out_proj(text)
    torch.manual_seed(3)
    torch.testing.assert_close(class_token(layer, hidden), token + layer.mlp(layer.layer_norm2(token)))
