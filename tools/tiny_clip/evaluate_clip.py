"""Measure the tiny CLIP on people it has not seen, and write the folder it is published in."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPImageProcessorPil as CLIPImageProcessor,  # the other one wants torchvision
)
from transformers import CLIPModel, PreTrainedTokenizerBase

from tools.tiny_clip import clip_card, portraits, views, vocabulary
from tools.tiny_clip.tiny_clip import MEAN, SIZE, STD, STORED_DTYPE, encode, pixels

GALLERY = 256  # images and captions of the retrieval


def image_vectors(model: CLIPModel, images: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 128) of images uint8 (n, 64, 64, 3)."""
    with torch.inference_mode():
        blank = torch.full((1, 2), model.config.text_config.eos_token_id)
        return np.concatenate(
            [
                encode(model, pixels(part), blank)[1].numpy()
                for part in np.array_split(images, max(1, len(images) // 256))
            ]
        )


def text_vectors(model: CLIPModel, words: PreTrainedTokenizerBase,
                 sentences: list[str]) -> np.ndarray:
    """Return unit vectors (n, 128) of sentences."""
    with torch.inference_mode():
        tokens = words(sentences, padding=True, return_tensors="pt")["input_ids"]
        projected = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
        return torch.nn.functional.normalize(projected, dim=-1).numpy()


def balanced_accuracy(
    truth: np.ndarray, answer: np.ndarray, groups: np.ndarray, classes: int
) -> dict[str, float]:
    """Return mean recall of the classes with a 95 % interval over groups, and the majority class.

    Rows of one group (a person) are drawn together, 1,000 times (percentile bootstrap). The
    majority class has a recall of 1 once and 0 otherwise: its balanced accuracy is 1 / classes.
    """
    _, group = np.unique(groups, return_inverse=True)
    total = np.zeros((group.max() + 1, classes))
    right = np.zeros_like(total)
    np.add.at(total, (group, truth), 1)
    np.add.at(right, (group, truth), truth == answer)
    weights = np.random.default_rng(0).multinomial(len(total), np.full(len(total), 1 / len(total)),
                                                   size=1000)
    draws = (weights @ right / np.maximum(weights @ total, 1)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    recall = right.sum(0) / np.maximum(total.sum(0), 1)
    return {
        "classes": classes,
        "balanced": float(recall.mean()),
        "low": float(low),
        "high": float(high),
        "majority_balanced": 1 / classes,
        "accuracy": float((truth == answer).mean()),
        "majority_accuracy": float(total.sum(0).max() / total.sum()),
    }


def evaluate(model: CLIPModel, words: PreTrainedTokenizerBase, unseen: portraits.Portraits) -> dict:
    """Return zero-shot balanced accuracy of every field, and retrieval among unseen people.

    Crops are centred and sharp, except for the field quality, whose crops are degraded.
    """
    everyone = np.arange(len(unseen))
    margin = (portraits.STORED - SIZE) // 2
    clear = image_vectors(model, unseen.images[:, margin : margin + SIZE, margin : margin + SIZE])
    worn, codes, _ = views.show(unseen, everyone, np.random.default_rng(0), still=True)
    zero_shot = {}
    for column, (field, choices) in enumerate(vocabulary.FIELDS.items()):
        shown = image_vectors(model, worn) if field == "quality" else clear
        answer = (shown @ text_vectors(model, words, vocabulary.prompts(field)).T).argmax(axis=1)
        zero_shot[field] = balanced_accuracy(codes[:, column], answer, unseen.ids, len(choices))
    return {
        "people": len(np.unique(unseen.ids)),
        "images": len(unseen),
        "zero_shot": zero_shot,
        "retrieval": retrieval(model, words, unseen, clear),
    }


def retrieval(
    model: CLIPModel, words: PreTrainedTokenizerBase, unseen: portraits.Portraits, clear: np.ndarray
) -> dict:
    """Return how often the true caption is nearest, or among five, for one image per person.

    Equal captions count as one; chance is 1 or 5 in the number of different captions.
    """
    rows = np.unique(unseen.ids, return_index=True)[1][:GALLERY]
    said = np.ones((len(rows), len(vocabulary.FIELDS)), bool)
    said[:, -1] = False
    captions = vocabulary.write(np.column_stack([unseen.codes[rows],
                                                 np.zeros(len(rows), int)]), said)
    different = sorted(set(captions))
    likeness = clear[rows] @ text_vectors(model, words, different).T
    own = likeness[np.arange(len(rows)), [different.index(caption) for caption in captions]]
    rank = (likeness > own[:, None]).sum(axis=1)
    return {
        "images": len(rows),
        "captions": len(different),
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
    }


def publish(model: CLIPModel, words: PreTrainedTokenizerBase, unseen: portraits.Portraits,
            facts: dict, out: Path) -> dict:
    """Write the checkpoint with its measurements to the folder `out`, whole or not at all.

    Measured is what is written: the weights after rounding to half precision, read back.
    """
    fresh = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    write_weights(model, fresh)
    words.save_pretrained(fresh)
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(fresh)
    found = evaluate(CLIPModel.from_pretrained(fresh).eval(), words, unseen)
    found["training"] = facts | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "processor": clip_card.processor(),
    }
    (fresh / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    (fresh / "README.md").write_text(clip_card.card(found))
    for file in fresh.iterdir():
        file.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    fresh.replace(out)
    return found


def write_weights(model: CLIPModel, folder: Path) -> None:
    """Return `save_pretrained` in half precision, with a config that says float32.

    So the file is small, while `from_pretrained` and `CLIPModel(config)` give a float32 model.
    """
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.to(STORED_DTYPE).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
