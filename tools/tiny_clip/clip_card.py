"""The model card of the tiny CLIP: its text, with every number taken from the measurements."""

import platform
from pathlib import Path

CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: zero-shot-image-classification
---
# A tiny CLIP of the demo world

A `CLIPModel` of {millions:.1f} million parameters (64 x 64 pixels, patches of 8, width 192, 6 blocks;
text width 128, 3 blocks) that knows the rendered people of the demo world and nothing else. It stands in
for a real CLIP where none can be downloaded, so that the same code runs. Weights are stored in half
precision and load as float32.

## Training
`{command}`

- Data: {people} people of world seed {world}, {frames} frames each, rendered, sent through H.264 (crf 18
  to 28) and cropped like the study's faces; none of them is in the demo corpus, and no manipulated
  picture was shown.
- Captions: full ones in half of the cases, else about three of ten fields; every caption of a batch that
  is true of an image counts as its own in the contrastive loss.
- Quality: some crops are blurred, made noisy or compressed, and half of the captions say so.
- Start: whitened DCT x opponent-colour patches, 2-D sine positions. Heads used only in training: classes
  of all fields (weight 2), amounts of blur, noise, compression and pose (weight 8); contrastive loss
  (weight 0.5).
- {steps} steps of {batch} in {minutes} minutes ({pace:.0f} images/s) with {threads} threads on
  {processor}; AdamW, learning rate {lr}, warm-up, then a cosine. With the same number of steps and
  threads on the same machine the training repeats.
- Losses over the last 50 steps: contrastive {pairs:.2f}, fields {named:.3f}, measures {measured:.3f}.

## Zero-shot on {unseen} other people, {images} images
One prompt per value ("a photo of a person with red hair"). In brackets 95 % intervals over resampled
people. Answering the majority class always has the balanced accuracy in column 4 (chance) and the
accuracy in column 6.

| field | classes | balanced accuracy | majority class, balanced | accuracy | majority class |
|---|---|---|---|---|---|
{rows}

For {clear} of {fields} fields the interval lies above chance. Retrieval of an image's own full caption
among {captions} different ones ({gallery} images): first {top1:.2f}, among the first five {top5:.2f}.

## What it cannot do
- It has seen only this rendered world: no real photograph, no skin or scene outside the generator, one
  face per picture.
- Fields whose interval holds chance, so that their words mean nothing to it: {unknown}.
- It knows the words of its captions; other words are spelt out in letters and mean nothing to it.
- It never saw a label of fakes. Its features say how blurred, noisy or compressed a crop is as a
  whole; a faint trace in one part of a face may not show in them. Numbers reached with it say nothing
  about a real CLIP or real data.
"""


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def card(found: dict) -> str:
    """Return the model card in Markdown, with every number taken from the measurements."""
    run, zero_shot, near = found["training"], found["zero_shot"], found["retrieval"]
    rows = [
        f"| {field} | {each['classes']} | {each['balanced']:.2f} [{each['low']:.2f}, {each['high']:.2f}] | "
        f"{each['majority_balanced']:.2f} | {each['accuracy']:.2f} | {each['majority_accuracy']:.2f} |"
        for field, each in zero_shot.items()
    ]
    unknown = [
        field for field, each in zero_shot.items() if each["low"] <= each["majority_balanced"]
    ]
    return CARD.format(
        **run,
        rows="\n".join(rows),
        clear=len(zero_shot) - len(unknown),
        unknown=", ".join(unknown) or "none",
        fields=len(zero_shot),
        unseen=found["people"],
        images=found["images"],
        gallery=near["images"],
        captions=near["captions"],
        top1=near["top1"],
        top5=near["top5"],
        millions=run["parameters"] / 1e6,
        batch=run["schedule"]["batch"],
        lr=run["schedule"]["lr"],
        pace=run["steps"] * run["schedule"]["batch"] / (run["minutes"] * 60),
    )
