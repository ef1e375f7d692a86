"""Load CLIP by name, normalise crops and compute features; only this module loads CLIP models."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from tqdm import tqdm

from dfnb import UserError, files
from dfnb.models import checkpoints
from dfnb.models.device import PRECISIONS, Pieces
from dfnb.models.encoder import enter, leave, trace
from dfnb.models.resize import resize

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

KINDS = ("projected", "pooled")
TOKENS, GPU_TOKENS = 2**11, 2**14  # per forward pass without gradients; more is slower on a CPU
HELD = 2**30  # bytes of crops that a reader keeps in memory on a CPU; more are read batch by batch
PREFIX_LIMIT = 4 * 2**30  # bytes of one array of frozen activations; beyond it none is kept

Reader = Callable[..., torch.Tensor]  # (rows, flip=None) -> the input of a model, (n, ...)


def load(name: str = "tiny", *, device: str | None = None, precision: str | None = None) -> "Clip":
    """Load "tiny", a folder of `save_pretrained`, or a hub name `owner/name[@revision]`.

    Weights are read from safetensors only, as float32, and no code of the checkpoint runs. A hub
    name is looked up in the local cache first; OpenAI's are pinned (`checkpoints.REVISIONS`).
    `device` is by default a GPU where there is one. `precision` of the frozen blocks is "float32"
    (default on a CPU) or "bfloat16" (default on a GPU).
    """
    folder = checkpoints.find(str(name))
    preprocessing = checkpoints.preprocessing(folder, name)
    try:
        model, report = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True)  # listed below; transformers' own error does not
    except Exception as error:  # a wrong configuration makes transformers fail in many places
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"the CLIP checkpoint {name} cannot be read: {reason}") from error
    wrong = [f"{kind}: {', '.join(sorted(map(str, keys)))}"
             for kind in ("missing", "unexpected", "mismatched")
             if (keys := report[f"{kind}_keys"])]
    if wrong:
        raise UserError(f"the keys of the CLIP checkpoint {name} are not those of a CLIPModel, "
                        f"{'; '.join(wrong)}")
    return Clip(str(name), model, preprocessing, folder, device, precision)


class Clip:
    """A frozen CLIP.

    `size`: side of its input in pixels; `tokens`: patches + 1; `width`, `layers`: of the image
    encoder; `text_width`: of the text encoder; `dim`: of the joint space. `frozen_dtype`: the
    precision of the frozen blocks, "float32" or "bfloat16".
    """

    def __init__(self, name: str, model, preprocessing: dict, folder: Path | None,
                 device: str | None = None, precision: str | None = None):
        self.name, self.folder, self.preprocessing = name, folder, preprocessing
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        default = "bfloat16" if self.device.type == "cuda" else "float32"
        self.frozen_dtype = precision or default
        self.model = model.float().eval().requires_grad_(False).to(self.device)
        self.encoder, vision = self.model.vision_model, model.config.vision_config
        self.size, self.width = vision.image_size, vision.hidden_size
        self.layers, self.dim = vision.num_hidden_layers, model.config.projection_dim
        self.tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        self.text_width = model.config.text_config.hidden_size
        self.logit_scale = float(model.logit_scale)
        self._mean, self._std = (
            torch.tensor(preprocessing[key], device=self.device).view(1, 3, 1, 1)
            for key in ("image_mean", "image_std"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over weights, shape and normalisation, for any file layout."""
        config = self.model.config.vision_config.to_diff_dict()
        unused = ("dtype", "transformers_version")
        facts = {key: config[key] for key in sorted(config) if key not in unused}
        facts |= {key: self.preprocessing[key] for key in ("image_mean", "image_std")}
        total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            total.update(key.encode())
            total.update(tensor.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    @functools.cached_property
    def tokenizer(self):
        """The checkpoint's own tokenizer; no code of the checkpoint runs."""
        return transformers.AutoTokenizer.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False)

    def untrained(self, seed: int) -> "Clip":
        """Return the same architecture with random weights: the control of frozen features."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.CLIPModel(copy.deepcopy(self.model.config))
        return Clip(f"{self.name}, untrained", model, self.preprocessing, self.folder,
                    str(self.device), self.frozen_dtype)

    def pixels(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Resize and normalise uint8 (n, h, w, 3) to float32 (n, 3, size, size)."""
        pixels = resize(torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2), self.size)
        return ((pixels / 255 - self._mean) / self._std).contiguous()

    def trainable_encoder(self) -> nn.Module:
        """Return a trainable copy of the image encoder, for a detector to adapt."""
        encoder = copy.deepcopy(self.encoder).requires_grad_(True)
        encoder.config._name_or_path = self.name  # goes into PEFT's adapter_config.json
        return encoder

    def pieces(self) -> Pieces:
        """Return the number of crops per forward pass that keeps no gradient."""
        return Pieces((GPU_TOKENS if self.device.type == "cuda" else TOKENS) // self.tokens)

    def precision(self) -> torch.autocast:
        """Return the autocast of trained blocks: bfloat16 on a GPU whose frozen blocks use it."""
        return self._autocast(self.device.type == "cuda" and self.frozen_dtype == "bfloat16")

    def frozen_precision(self) -> torch.autocast:
        """Return the autocast of frozen blocks, and note their precision for the run's record."""
        PRECISIONS.add(self.frozen_dtype)
        return self._autocast(self.frozen_dtype == "bfloat16")

    def _autocast(self, enabled: bool) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    @torch.inference_mode()
    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the pooled features (n, width) of the frozen encoder."""
        return leave(self.encoder, enter(self.encoder, pixels, 0), 0)

    @torch.no_grad()
    def traces(self, pixels: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield for each block what `encoder.trace` returns, of the patches alone, as float32.

        Nothing of it is cached: one crop has 4 * layers * (tokens - 1) * width values, 1.2 MB in
        the tiny CLIP.
        """
        with self.precision():
            hidden = enter(self.encoder, pixels, 0)
        for layer in self.encoder.encoder.layers:
            with self.precision():  # left before the yield, or the caller's sums would be bfloat16
                *attended, hidden = trace(layer, hidden)
            yield *(tokens[:, :, 1:].float() for tokens in attended), hidden[:, 1:].float()

    def pixel_reader(self, view) -> Reader:
        """Return a reader of normalised pixels (n, 3, size, size); `flip` (n,) bool mirrors."""
        cuda = self.device.type == "cuda"
        limit = torch.cuda.mem_get_info(self.device)[0] // 2 if cuda else HELD
        fits = len(view) * view.size**2 * 3 <= limit
        held = torch.as_tensor(view.images()).to(self.device) if fits else None

        def read(rows: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            at = torch.as_tensor(rows, device=self.device)
            pixels = self.pixels(view.images(rows) if held is None else held[at])
            if flip is None:
                return pixels
            mirrored = torch.as_tensor(flip, device=self.device).view(-1, 1, 1, 1)
            return torch.where(mirrored, pixels.flip(-1), pixels)

        return read

    def hidden_reader(self, view, block: int, *, keep: bool = True) -> Reader:
        """Return a reader of the frozen activations (n, tokens, width) that enter `block`.

        With `keep` they are computed once for the view's root and then memory-mapped. Kept
        activations cannot be flipped. None are kept for block 0, where it would save nothing, or
        where the array would exceed `PREFIX_LIMIT` bytes.
        """
        values = len(view.root) * self.tokens * self.width
        if keep and block > 0 and values * 4 <= PREFIX_LIMIT:
            return self._kept_reader(view, block)
        read, pieces = self.pixel_reader(view), self.pieces()

        def read_fresh(rows: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            def compute(at: np.ndarray) -> torch.Tensor:
                pixels = read(rows[at], None if flip is None else flip[at])
                return enter(self.encoder, pixels, block).float()

            with torch.no_grad(), self.frozen_precision():
                return torch.cat([part for _, part in pieces.of(np.arange(len(rows)), compute)])

        return read_fresh

    def _kept_reader(self, view, block: int) -> Reader:
        kept = self._cached(view.root, f"block{block}", (self.tokens, self.width),
                            lambda pixels: enter(self.encoder, pixels, block))

        def read(rows: np.ndarray, flip: None = None) -> torch.Tensor:
            if flip is not None:
                raise ValueError("kept activations cannot be flipped")
            return torch.from_numpy(kept[view.positions[rows]]).to(self.device)

        return read

    def image_features(self, view, *, kind: str = "projected") -> np.ndarray:
        """Return float32 (n, dim) of unit length for "projected", (n, width) for "pooled".

        They are computed once per checkpoint for the view's root, and shared by its selections.
        """
        if kind not in KINDS:
            raise UserError(f"features must be one of {', '.join(KINDS)}, got {kind!r}")

        def project(pixels: torch.Tensor) -> torch.Tensor:
            return F.normalize(self.model.visual_projection(self.pooled(pixels)), dim=-1)

        width, compute = (self.dim, project) if kind == "projected" else (self.width, self.pooled)
        return np.asarray(self._cached(view.root, kind, (width,), compute)[view.positions])

    def _cached(self, view, kind: str, shape: tuple[int, ...], compute: Callable) -> np.ndarray:
        """Return the array (n, *shape) of `compute(pixels)`; it is computed once per checkpoint."""

        def build(array: np.ndarray) -> None:
            read, pieces = self.pixel_reader(view), self.pieces()
            bar = tqdm(total=len(view), desc=f"CLIP {kind}", disable=None, leave=False)
            with torch.inference_mode(), self.frozen_precision(), bar:
                for rows, part in pieces.of(np.arange(len(view)),
                                            lambda rows: compute(read(rows)).float().cpu()):
                    array[rows] = part.numpy()
                    bar.update(len(rows))

        suffix = "-bfloat16" if self.frozen_dtype == "bfloat16" else ""
        name = f"{view.fingerprint}-{kind}{suffix}.npy"
        path = files.cache() / "features" / self.fingerprint / name
        return files.cached_array(path, (len(view), *shape), build)

    @torch.inference_mode()
    def text_features(self, prompts: list[str]) -> np.ndarray:
        """Return float32 (n, dim) of unit length, one row per prompt."""
        tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.device)
        longest = prompts[int(tokens.attention_mask.sum(dim=1).argmax())]
        self._check_length(repr(longest), tokens.input_ids.shape[1])
        projected = self.model.get_text_features(**tokens).pooler_output
        return F.normalize(projected, dim=-1).cpu().numpy()

    def text_around(self, prompt: str, filling: torch.Tensor) -> torch.Tensor:
        """Return unit-length features (n, dim) of `prompt` with token embeddings in place of "{}".

        `filling`: (n, gap, text width); the gradient flows to it. The words on each side of the
        gap are tokenized separately. UserError for more tokens than the text encoder takes.
        """
        before, after = (self.tokenizer(part.strip(), add_special_tokens=False).input_ids
                         for part in prompt.split("{}"))
        left = [self.tokenizer.bos_token_id, *before]
        right = [*after, self.tokenizer.eos_token_id]
        count, gap, _ = filling.shape
        self._check_length(f"{prompt!r} with a gap of {gap}", len(left) + gap + len(right))
        look_up = self.model.text_model.embeddings.token_embedding
        left, right = (look_up(torch.tensor(ids, device=self.device)).expand(count, -1, -1)
                       for ids in (left, right))
        return self.text_from_embeddings(torch.cat([left, filling, right], dim=1))

    def _check_length(self, prompt: str, tokens: int) -> None:
        limit = self.model.config.text_config.max_position_embeddings
        if tokens > limit:
            raise UserError(f"the prompt {prompt} has {tokens} tokens, but {self.name} takes at "
                            f"most {limit}; shorten it")

    def text_from_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return unit-length features (n, dim) of token embeddings (n, length, text width).

        The embeddings run from the start token to the end token. As in transformers, positions
        are added, a token attends to itself and to those before it, and the end token is pooled.
        The end token is always the last one here.
        """
        encoder, length = self.model.text_model, embeddings.shape[1]
        mask = torch.full((length, length), -torch.inf, device=self.device).triu(1)[None, None]
        with self._autocast(False):  # two classes differ by less than bfloat16 resolves
            hidden = encoder.embeddings(inputs_embeds=embeddings)
            for layer in encoder.encoder.layers:
                hidden = layer(hidden, mask)
            hidden = encoder.final_layer_norm(hidden[:, -1])
            return F.normalize(self.model.text_projection(hidden), dim=-1)
