"""CLIP: load it by name, normalise crops, give features. The only room that knows transformers."""

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
TOKENS, GPU_TOKENS = 2**11, 2**14  # in one forward pass without gradients; larger arrays cost a CPU a fifth of its speed
HELD = 2**30  # bytes of crops kept in memory by a reader without a GPU; beyond it they are read batch by batch
PREFIX_LIMIT = 4 * 2**30  # bytes of one prefix array; beyond it the frozen blocks are computed anew

Reader = Callable[..., torch.Tensor]  # (rows, flip=None) -> what a model eats, (n, ...)


def load(name: str = "tiny", *, device: str | None = None,
         precision: str | None = None) -> "Clip":
    """The CLIP called `name`: "tiny", a folder of `save_pretrained`, or a hub name `owner/name[@revision]`.

    Weights are read from safetensors only, as float32; no code of the checkpoint runs. A hub name is looked
    up in the local cache first; OpenAI's are pinned (`checkpoints.REVISIONS`). By default `device` is a
    GPU where there is one, and `precision` of what is frozen float32 on a CPU and bfloat16 on a GPU.
    """
    folder = checkpoints.find(str(name))
    preprocessing = checkpoints.preprocessing(folder, name)
    try:
        model, found = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed below, which transformers' own error does not do
        )
    except Exception as error:  # a configuration can make it stumble anywhere: sizes, names, missing shards
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"the CLIP checkpoint {name} cannot be read: {text}") from error
    wrong = {kind: found[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(sorted(map(str, keys)))}" for kind, keys in wrong.items() if keys
        )
        raise UserError(f"the keys of the CLIP checkpoint {name} are not those of a CLIPModel, {listed}")
    return Clip(str(name), model, preprocessing, folder, device, precision)


class Clip:
    """A frozen CLIP.

    `size`: input pixels; `tokens`: patches + 1; `width`, `layers`: of the image tower; `text_width`; `dim`: joint space.
    """

    def __init__(self, name: str, model, preprocessing: dict, folder: Path | None,
                 device: str | None = None, precision: str | None = None):
        self.name, self.folder, self.preprocessing = name, folder, preprocessing
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        default = "bfloat16" if self.device.type == "cuda" else "float32"
        self.halves = (precision or default) == "bfloat16"
        self.model = model.float().eval().requires_grad_(False).to(self.device)
        vision = model.config.vision_config
        self.size, self.width, self.layers = vision.image_size, vision.hidden_size, vision.num_hidden_layers
        self.dim, self.tokens = model.config.projection_dim, (vision.image_size // vision.patch_size) ** 2 + 1
        self.text_width = model.config.text_config.hidden_size
        self.logit_scale = float(model.logit_scale)
        colours = torch.tensor(
            [preprocessing[key] for key in ("image_mean", "image_std")], device=self.device
        )
        self._mean, self._std = colours.view(2, 1, 3, 1, 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over weights, shape and normalisation; one for all key layouts on disk."""
        config = self.model.config.vision_config.to_diff_dict()
        facts = {key: config[key] for key in sorted(config) if key not in ("dtype", "transformers_version")}
        facts |= {key: self.preprocessing[key] for key in ("image_mean", "image_std")}
        total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            total.update(key.encode())
            total.update(tensor.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    @functools.cached_property
    def tokenizer(self):
        return transformers.AutoTokenizer.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )

    def untrained(self, seed: int) -> "Clip":
        """The same architecture, initialised at random by transformers: the control of frozen features."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.CLIPModel(copy.deepcopy(self.model.config))
        return Clip(f"{self.name}, untrained", model, self.preprocessing, self.folder, str(self.device),
                    "bfloat16" if self.halves else "float32")

    def pixels(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (n, h, w, 3) to float (n, 3, size, size), normalised by the checkpoint's mean and std."""
        pixels = resize(torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2), self.size)
        return ((pixels / 255 - self._mean) / self._std).contiguous()

    def vision_tower(self) -> nn.Module:
        """A trainable copy of the image tower (`CLIPVisionModel`); what a method adapts."""
        tower = copy.deepcopy(self.model.vision_model).requires_grad_(True)
        tower.config._name_or_path = self.name  # goes into PEFT's adapter_config.json
        return tower

    def pieces(self) -> Pieces:
        """How many crops to pass through the tower at once where no gradient is kept."""
        return Pieces((GPU_TOKENS if self.device.type == "cuda" else TOKENS) // self.tokens)

    def precision(self) -> torch.autocast:
        """Return the autocast of what is trained: bfloat16 on a GPU with that precision."""
        half = self.halves and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def frozen_precision(self) -> torch.autocast:
        """Return the autocast of what is frozen, and note it for the run's record."""
        PRECISIONS.add("bfloat16" if self.halves else "float32")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.halves)

    @torch.inference_mode()
    def tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled features (n, width) of the frozen tower."""
        return leave(self.model.vision_model, enter(self.model.vision_model, pixels, 0), 0)

    @torch.no_grad()
    def traces(self, pixels: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Block by block what `trace` reads of the patches, without the class token, as float32.

        Never kept on disk: of one crop it is 4 * layers * (tokens - 1) * width values (1.2 MB in the tiny CLIP).
        """
        with self.precision():
            hidden = enter(self.model.vision_model, pixels, 0)
        for layer in self.model.vision_model.encoder.layers:
            with self.precision():  # closed before the block is handed out, or the reader's sums would be bfloat16
                *attended, hidden = trace(layer, hidden)
            yield *(tokens[:, :, 1:].float() for tokens in attended), hidden[:, 1:].float()

    def pixel_reader(self, view) -> Reader:
        """Rows of a view to normalised pixels (n, 3, size, size); `flip` (n,) bool mirrors them."""
        held = None
        room = torch.cuda.mem_get_info(self.device)[0] // 2 if self.device.type == "cuda" else HELD
        if len(view) * view.size**2 * 3 <= room:
            held = torch.as_tensor(view.images()).to(self.device)

        def read(rows: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
            images = view.images(rows) if held is None else held[torch.as_tensor(rows, device=self.device)]
            pixels = self.pixels(images)
            if flip is None:
                return pixels
            flip = torch.as_tensor(flip, device=self.device).view(-1, 1, 1, 1)
            return torch.where(flip, pixels.flip(-1), pixels)

        return read

    def hidden_reader(self, view, block: int, *, keep: bool = True, limit: int = PREFIX_LIMIT) -> Reader:
        """Rows of a view to the frozen activations (n, tokens, width) that enter `block`.

        With `keep` they are computed once for the view's root and memory-mapped afterwards, unless that array
        would exceed `limit` bytes or `block` is 0 (nothing is saved). Kept activations cannot be flipped.
        """
        frozen = self.model.vision_model
        if not keep or block == 0 or len(view.root) * self.tokens * self.width * 4 > limit:
            read, pieces = self.pixel_reader(view), self.pieces()

            def fresh(rows: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
                def of(at: np.ndarray) -> torch.Tensor:
                    return enter(frozen, read(rows[at], None if flip is None else flip[at]), block).float()

                with torch.no_grad(), self.frozen_precision():
                    return torch.cat([found for _, found in pieces.of(np.arange(len(rows)), of)])

            return fresh
        shape = (self.tokens, self.width)
        kept = self._kept(view.root, f"block{block}", shape, lambda pixels: enter(frozen, pixels, block))

        def read_kept(rows: np.ndarray, flip: None = None) -> torch.Tensor:
            if flip is not None:
                raise ValueError("kept activations cannot be flipped")
            return torch.from_numpy(kept[view.positions[rows]]).to(self.device)

        return read_kept

    def image_features(self, view, *, kind: str = "projected") -> np.ndarray:
        """float32 (n, dim) of unit length for "projected", (n, width) for "pooled".

        Computed once per checkpoint for the view's root, whatever is selected of it.
        """
        if kind not in KINDS:
            raise UserError(f"features must be one of {', '.join(KINDS)}, got {kind!r}")

        def features(pixels: torch.Tensor) -> torch.Tensor:
            pooled = self.tower(pixels)
            return pooled if kind == "pooled" else F.normalize(self.model.visual_projection(pooled), dim=-1)

        shape = (self.width if kind == "pooled" else self.dim,)
        return np.asarray(self._kept(view.root, kind, shape, features)[view.positions])

    def _kept(self, view, kind: str, shape: tuple[int, ...], compute: Callable) -> np.ndarray:
        def build(array: np.ndarray) -> None:
            read, pieces = self.pixel_reader(view), self.pieces()
            bar = tqdm(total=len(view), desc=f"CLIP {kind}", disable=None, leave=False)
            with torch.inference_mode(), self.frozen_precision(), bar:
                for rows, found in pieces.of(np.arange(len(view)), lambda rows: compute(read(rows)).float().cpu()):
                    array[rows] = found.numpy()
                    bar.update(len(rows))

        kind += "-bfloat16" if self.halves else ""
        path = files.cache() / "features" / self.fingerprint / f"{view.fingerprint}-{kind}.npy"
        return files.cached_array(path, (len(view), *shape), build)

    @torch.inference_mode()
    def text_features(self, prompts: list[str]) -> np.ndarray:
        """float32 (n, dim) of unit length, one row per prompt."""
        tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.device)
        used, room = tokens.input_ids.shape[1], self.model.config.text_config.max_position_embeddings
        if used > room:
            longest = max(prompts, key=len)
            raise UserError(
                f"a prompt has {used} tokens, {self.name} takes at most {room}; shorten {longest!r}"
            )
        projected = self.model.get_text_features(**tokens).pooler_output
        return F.normalize(projected, dim=-1).cpu().numpy()

    def text_around(self, prompt: str, filling: torch.Tensor) -> torch.Tensor:
        """Unit-length features (n, dim) of a `prompt` whose "{}" is n times filled with token embeddings.

        `filling`: (n, gap, text width); the gradient flows to it. The words on both sides become tokens apart from
        each other. Raises `UserError` where start, words, gap and end are more than the text tower takes.
        """
        before, after = (self.tokenizer(part.strip(), add_special_tokens=False).input_ids for part in prompt.split("{}"))
        sides = [self.tokenizer.bos_token_id, *before], [*after, self.tokenizer.eos_token_id]
        used, room = filling.shape[1] + sum(map(len, sides)), self.model.config.text_config.max_position_embeddings
        if used > room:
            gap = filling.shape[1]
            raise UserError(f"{prompt!r} with a gap of {gap} has {used} tokens, {self.name} takes at most {room}")
        look_up = self.model.text_model.embeddings.token_embedding
        left, right = (look_up(torch.tensor(ids, device=self.device)).expand(len(filling), -1, -1) for ids in sides)
        return self.text_from_embeddings(torch.cat([left, filling, right], dim=1))

    def text_from_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Unit-length features (n, dim) of token embeddings (n, length, text width) from the start to the end token.

        As transformers does it from token ids: positions are added, a token sees itself and those before it, and the
        end token is pooled, here always the last one.
        """
        tower, length = self.model.text_model, embeddings.shape[1]
        mask = torch.full((length, length), -torch.inf, device=self.device).triu(1)[None, None]
        with torch.autocast(self.device.type, enabled=False):  # two classes differ by less than bfloat16 resolves
            hidden = tower.embeddings(inputs_embeds=embeddings)
            for layer in tower.encoder.layers:
                hidden = layer(hidden, mask)
            return F.normalize(self.model.text_projection(tower.final_layer_norm(hidden[:, -1])), dim=-1)
