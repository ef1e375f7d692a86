"""The image encoder in two parts: values and gradients are those of the whole encoder."""

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
    """The last block under LoRA with random B and much dropout, and the tokens that enter it."""
    options = {"rank": 4, "alpha": 8, "dropout": 0.5, "blocks": 1}
    encoder = lora.adapt(clip.trainable_encoder(), **options).get_base_model()
    layer = encoder.encoder.layers[-1]
    with torch.no_grad():
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            up = projection.lora_B["default"].weight
            up.normal_(generator=torch.Generator().manual_seed(2))
    return layer, enter(encoder, pixels, clip.layers - 1)


def test_the_two_parts_of_the_encoder_make_the_whole(clip, pixels):
    encoder = clip.trainable_encoder()
    whole = encoder(pixels).pooler_output
    for block in range(clip.layers + 1):
        parts = leave(encoder, enter(encoder, pixels, block), block)
        torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(clip.pooled(pixels), whole)


def test_every_weight_gets_the_gradient_of_the_whole(clip, pixels):
    encoder, weights = clip.trainable_encoder(), torch.arange(clip.width) / clip.width
    named = {name: value for name, value in encoder.named_parameters() if "position" not in name}
    whole, parts = (
        torch.autograd.grad((pooled * weights).sum(), list(named.values()))
        for pooled in (encoder(pixels).pooler_output, leave(encoder, enter(encoder, pixels, 0), 0)))
    for name, expected, gradient in zip(named, whole, parts, strict=True):
        torch.testing.assert_close(
            gradient, expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("training", [False, True])
def test_an_adapted_class_token_equals_that_of_all_tokens_with_the_same_dropout(adapted, training):
    layer, hidden = adapted
    attention, normed = layer.train(training).self_attn, layer.layer_norm1(hidden)
    torch.manual_seed(3)
    query, key, value = (
        projection(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection, tokens in ((attention.q_proj, normed[:, :1]), (attention.k_proj, normed),
                                   (attention.v_proj, normed)))
    mixed = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    token = hidden[:, 0] + attention.out_proj(mixed.flatten(1))
    expected = token + layer.mlp(layer.layer_norm2(token))
    torch.manual_seed(3)
    torch.testing.assert_close(class_token(layer, hidden), expected)
