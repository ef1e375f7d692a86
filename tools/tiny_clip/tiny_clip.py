"""The tiny CLIP as a network: a `transformers` CLIPModel, its start, losses, training heads."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

SIZE, PATCH = 64, 8  # pixels
STORED_DTYPE = torch.float16
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # of RGB in [0, 1]
WORDS = 48  # longest caption in tokens
# Rows: light, red against green, blue against yellow; each of length one: DCT x colour is
# orthonormal.
OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [-0.5, -0.5, 1]]) / np.sqrt([[3], [2], [1.5]])


def build(vocabulary: int, specials: dict[str, int], *, width: int = 192,
          depth: int = 6) -> CLIPModel:
    """Return an untrained CLIPModel of 64 x 64 pixels in patches of 8 (about 3.4 M parameters).

    `specials` holds the token ids `bos`, `eos`, `pad`. `width` must be a multiple of 64, 192 or
    more.
    """
    text = dict(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        bos_token_id=specials["bos"],
        eos_token_id=specials["eos"],
        pad_token_id=specials["pad"],
        hidden_act="gelu",
    )
    vision = dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)).float()


def dct(n: int) -> np.ndarray:
    """Return orthonormal DCT-II basis, one row per frequency, shape (n, n)."""
    frequency, position = np.arange(n)[:, None], np.arange(n)[None]
    basis = np.cos(np.pi * (position + 0.5) * frequency / n) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    return basis


def whitened_patches(images: np.ndarray) -> np.ndarray:
    """Return patch filters of unit variance per frequency on `images` uint8 (n, 64, 64, 3).

    A DCT x opponent-colour basis, each filter divided by its standard deviation: fine traces reach
    the first block as strongly as the slow shades that carry most of a photo's variance. Shape
    (192, 3, 8, 8).
    """
    waves = dct(PATCH)
    basis = np.einsum("ux,vy,kc->uvkcxy", waves, waves, OPPONENT).reshape(-1, 3 * PATCH * PATCH)
    scaled = (images.astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
    n, grid = len(images), SIZE // PATCH
    patches = (scaled.reshape(n, grid, PATCH, grid, PATCH,
                              3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, basis.shape[1]))
    deviation = (patches @ basis.T).std(
        axis=0) + 1e-3  # the floor keeps empty colours from blowing up
    return (basis / deviation[:, None]).reshape(-1, 3, PATCH, PATCH).astype(np.float32)


def sine_positions(width: int) -> np.ndarray:
    """Return sine-cosine codes (1 + 64, width), first a zero row for the class token."""
    grid = SIZE // PATCH
    frequency = 1 / 100 ** (np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    angles = np.concatenate([rows[:, None] * frequency, columns[:, None] * frequency], axis=1)
    codes = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.concatenate([np.zeros((1, width)), codes]).astype(np.float32)


def start(model: CLIPModel, images: np.ndarray) -> None:
    """Start the image encoder with whitened DCT patches and sine positions, both trained on."""
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        filters = torch.from_numpy(whitened_patches(images))
        embeddings.patch_embedding.weight[: len(filters)] = filters
        positions = torch.from_numpy(sine_positions(model.config.vision_config.hidden_size))
        embeddings.position_embedding.weight.copy_(positions)


class Heads(nn.Module):
    """Linear heads on the pooled image vector, thrown away after pre-training.

    They teach the encoder what captions say in few words only: one classifier per field and one
    regression of blur, noise, compression and pose.
    """

    def __init__(self, width: int, classes: dict[str, int], measures: int):
        super().__init__()
        self.attributes = nn.ModuleList(nn.Linear(width, count) for count in classes.values())
        self.measures = nn.Linear(width, measures)

    def forward(self, pooled: torch.Tensor, codes: torch.Tensor, measures: torch.Tensor) -> tuple:
        """Return mean cross-entropy over attributes, and mean squared error of the measures.

        Shapes: pooled (n, width), codes int (n, attributes), measures (n, measures) in units of
        about one.
        """
        named = [
            functional.cross_entropy(head(pooled), codes[:, i])
            for i, head in enumerate(self.attributes)
        ]
        return torch.stack(named).mean(), functional.mse_loss(self.measures(pooled), measures)


def encode(model: CLIPModel, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple:
    """Return pooled image vectors (n, width), unit image and unit text vectors (n, 128)."""
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    written = model.text_model(input_ids=tokens).pooler_output
    image, text = model.visual_projection(pooled), model.text_projection(written)
    return pooled, functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)


def contrastive(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, fits: torch.Tensor
) -> torch.Tensor:
    """Return the symmetric cross-entropy of CLIP, in which every true caption of an image counts.

    `fits` (n, n) is true where caption j holds for image i; its diagonal is true. With the identity
    matrix this is the loss of Radford et al. (2021); several positives share the target evenly
    (UniCL, Yang et al., 2022).
    """
    logits = image @ text.T * scale.exp().clamp(max=100)
    target = fits.float()
    by_image = functional.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_text = functional.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (by_image + by_text) / 2


def pixels(images: np.ndarray) -> torch.Tensor:
    """Return uint8 (n, 64, 64, 3) as normalised float32 (n, 3, 64, 64)."""
    scaled = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(255)
    return scaled.sub_(torch.tensor(MEAN)[:, None,
                                          None]).div_(torch.tensor(STD)[:, None,
                                                                        None]).contiguous()
