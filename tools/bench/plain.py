"""The plain recipes: LoRA with Hugging Face's Trainer on PNG files, and FF++'s way to crop faces.

python -m tools.bench.plain CLIP FOLDER OPTIONS    one whole run, as a script would do it
"""

import json
import sys
from pathlib import Path

import cv2
import dlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from dfnb.data import video
from dfnb.detectors.lora import adapt
from dfnb.evaluation import metrics
from dfnb.models import clip as clips


class Pictures(torch.utils.data.Dataset):
    """PNG files of one part, decoded whenever they are asked for; their names end in the label."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.png"))
        self.labels = np.array([int(file.stem[-1]) for file in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> dict:
        with Image.open(self.files[at]) as image:
            return {"image": np.asarray(image.convert("RGB")), "label": self.labels[at]}


def write(view, folder: Path) -> None:
    """Write the crops of a view as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, (image, label) in enumerate(zip(view.images(), view.labels, strict=True)):
        Image.fromarray(image).save(folder / f"{at:06d}-{label}.png")


class Tower(nn.Module):
    """The whole encoder with LoRA in its last blocks and a linear head.

    The loss weighs the classes equally.
    """

    def __init__(self, clip: clips.Clip, weights: torch.Tensor, **shape):
        super().__init__()
        self.encoder = adapt(clip.trainable_encoder(), **shape)
        self.head, self.weights = nn.Linear(clip.width, 1), weights

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> dict:
        logits = self.head(self.encoder(pixels).pooler_output).squeeze(-1)
        if labels is None:
            return {"logits": logits}
        weights = self.weights.to(labels.device)[labels]
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, labels.float(), weights), "logits":
            logits
        }


def lora(folder: Path, clip: clips.Clip, *, seed: int, epochs: int, batch: int,
         learning_rate: float, **shape) -> dict:
    """Run on FOLDER/train, validation, test; return steps, last mean loss and AUC of test crops."""
    train, validation, test = (Pictures(folder / part) for part in ("train", "validation", "test"))
    torch.manual_seed(seed)
    sizes = np.bincount(train.labels, minlength=2)
    model = Tower(clip, torch.tensor(len(train) / (2 * sizes), dtype=torch.float32), **shape)
    options = TrainingArguments(str(folder / "trainer"), per_device_train_batch_size=batch,
                                per_device_eval_batch_size=256, num_train_epochs=epochs,
                                learning_rate=learning_rate, weight_decay=0.01,
                                lr_scheduler_type="cosine", warmup_steps=0.1, seed=seed,
                                eval_strategy="epoch", logging_strategy="epoch", save_strategy="no",
                                report_to="none", disable_tqdm=True,
                                use_cpu=clip.device.type == "cpu", remove_unused_columns=False,
                                dataloader_pin_memory=False, label_names=["labels"])

    def batches(items: list[dict]) -> dict:
        images = np.stack([item["image"] for item in items])
        return {
            "pixels": clip.pixels(images), "labels":
            torch.tensor([int(item["label"]) for item in items])
        }

    trainer = Trainer(model, options, data_collator=batches, train_dataset=train,
                      eval_dataset=validation)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    scores = trainer.predict(test).predictions
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "steps": trainer.state.global_step, "loss": losses[-1], "AUC":
        metrics.auc(test.labels, np.ravel(scores))
    }


def crops(path: Path, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the crops (n, size, size, 3) and boxes (n, 4) of FF++'s recipe on one video.

    It runs dlib with one upsampling on every frame kept, at full size, and takes the largest face
    in a square of 1.3 times its longer side. A box is NaN where no face was found.
    """
    detect, images, boxes = dlib.get_frontal_face_detector(), [], []
    for frame in video.read(path, count).frames:
        faces = sorted(detect(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1),
                       key=lambda face: face.area())
        if not faces:
            boxes.append([np.nan] * 4)
            continue
        face = faces[-1]
        half = 0.65 * max(face.width(), face.height())
        x, y = (face.left() + face.right() + 1) / 2, (face.top() + face.bottom() + 1) / 2
        left, top = max(0, round(x - half)), max(0, round(y - half))
        square = frame[top : round(y + half), left : round(x + half)]
        images.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
        boxes.append([face.left(), face.top(), face.right() + 1, face.bottom() + 1])
    return np.array(images), np.array(boxes, float)


def main() -> None:
    name, folder, options = sys.argv[1:]
    print(json.dumps(lora(Path(folder), clips.load(name), **json.loads(options))))


if __name__ == "__main__":
    main()
