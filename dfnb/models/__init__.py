"""Load CLIP and compute with it: crops come in, features, frozen activations and maps go out.

Open `clip.py` first: it loads a checkpoint (`checkpoints.py` finds it) and caches features.
`encoder.py` enters and leaves the image encoder at any block, `resize.py` brings crops to CLIP's
size, `device.py` fits batches into memory, `saliency.py` maps where a detector looks.
"""
