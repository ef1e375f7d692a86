"""A portrait as the network sees it: shifted, mirrored, relit, and blurred, noisy or compressed."""

import cv2
import numpy as np

from tools.tiny_clip.portraits import STORED, Portraits
from tools.tiny_clip.tiny_clip import SIZE
from tools.tiny_clip.vocabulary import FIELDS

QUALITY_ODDS = (0.4, 0.2, 0.2, 0.2)  # of FIELDS["quality"]: sharp, blurry, noisy, compressed
MEASURES = 6  # blur, noise, compression, yaw, pitch, roll


def show(kept: Portraits, rows: np.ndarray, rng: np.random.Generator, *,
         still: bool = False) -> tuple:
    """Return the crops of `rows` shifted, perhaps mirrored, relit, of a drawn quality.

    Returns images uint8 (n, 64, 64, 3), codes (n, fields) with the quality last, measures float32
    (n, 6). `still` leaves out shift, mirror and light, as in an evaluation.
    """
    images, codes, angles = kept.images[rows], kept.codes[rows].astype(
        np.int64), kept.angles[rows].copy()
    quality = rng.choice(len(QUALITY_ODDS), len(rows), p=QUALITY_ODDS)
    corners = np.full((len(rows), 2), (STORED - SIZE) // 2)
    if not still:
        corners = rng.integers(0, STORED - SIZE + 1, (len(rows), 2))
        images, codes, angles = _mirror(images, codes, angles, rng.random(len(rows)) < 0.5)
    shown = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    amounts = np.zeros((len(rows), 3), np.float32)
    for i, (image, (y, x)) in enumerate(zip(images, corners, strict=True)):
        window = image[y : y + SIZE, x : x + SIZE]
        shown[i], amounts[i] = degrade(window if still else _relight(window, rng), int(quality[i]),
                                       rng)
    return shown, np.column_stack([codes, quality]), np.concatenate([amounts, angles], axis=1)


def _mirror(images: np.ndarray, codes: np.ndarray, angles: np.ndarray, which: np.ndarray) -> tuple:
    """Return mirror some crops; left and right gaze, yaw and roll change with them."""
    images[which] = images[which, :, ::-1]
    gaze = list(FIELDS).index("gaze")
    swapped = np.array(
        [FIELDS["gaze"].index({"left": "right", "right": "left"}.get(v, v)) for v in FIELDS["gaze"]]
    )
    codes[which, gaze] = swapped[codes[which, gaze]]
    angles[which] *= np.array([-1, 1, -1], np.float32)
    return images, codes, angles


def _relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness and contrast a little, through a table of the 256 grey levels."""
    contrast, light = rng.uniform(0.85, 1.15), rng.uniform(-18, 18)
    table = (np.arange(256) - 128) * contrast + 128 + light
    return cv2.LUT(np.ascontiguousarray(image), table.clip(0, 255).astype(np.uint8))


def degrade(image: np.ndarray, quality: int,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop uint8 (h, w, 3) of a quality, and blur, noise, compression, each 0 to 1.

    Blur: a Gaussian of 0.5 to 2.5 pixels. Noise: a deviation of 4 to 25 grey levels. Compression:
    JPEG of quality 5 to 31. Weak forms are as common as strong ones.
    """
    amounts, strength = np.zeros(3, np.float32), rng.random()
    if FIELDS["quality"][quality] == "blurry":
        amounts[0] = 0.2 * 5**strength
        image = cv2.GaussianBlur(image, (0, 0), 2.5 * float(amounts[0]))
    elif FIELDS["quality"][quality] == "noisy":
        amounts[1] = 0.16 * 6.25**strength
        grain = rng.standard_normal(image.shape, dtype=np.float32) * (25 * amounts[1])
        image = (image + grain).clip(0, 255).astype(np.uint8)
    elif FIELDS["quality"][quality] == "compressed":
        amounts[2] = 1 - 0.75 * strength
        quality_factor = round(40 - 35 * float(amounts[2]))
        _, packed = cv2.imencode(".jpg", image[..., ::-1],
                                 [cv2.IMWRITE_JPEG_QUALITY, quality_factor])
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1]
    return image, amounts
