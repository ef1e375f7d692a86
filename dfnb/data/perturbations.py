"""What happens to crops on their way through the world: recompression, blur, noise, scaling, light; by strength."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from dfnb import KEY, UserError
from dfnb.data import encoding
from dfnb.data.crops import CropView


@dataclass(frozen=True)
class Kind:
    """One perturbation: `apply(images, amount, generators)` at five amounts, mild to heavy, in a unit."""

    unit: str  # how an amount is read, with {} for the amount
    amounts: tuple[float, float, float, float, float]
    apply: Callable[[np.ndarray, float, list[np.random.Generator]], np.ndarray]

    def names(self) -> list[str]:
        """The strengths in words, from 0 (nothing done) to 5."""
        return ["none", *(self.unit.format(f"{amount:g}") for amount in self.amounts)]


def apply(view: CropView, kind: str, strength: int, seed: int = 0) -> CropView:
    """The crops of a view after one perturbation of strength 1 to 5, in memory; 0 leaves them as they are.

    A crop comes out the same whatever else is in the view; what is drawn follows from `seed` and the crop's key.
    """
    if kind not in KINDS:
        raise UserError(f"there is no perturbation {kind!r}; there are {', '.join(KINDS)}")
    if strength not in range(6):
        raise UserError(f"a strength is a whole number from 0 (none) to 5, got {strength!r}")
    images = view.images()
    if strength and len(view):
        images = KINDS[kind].apply(images, KINDS[kind].amounts[strength - 1], _generators(view, seed))
    return CropView.of_arrays(images, view.frames)


def _generators(view: CropView, seed: int) -> list[np.random.Generator]:
    """A generator for each crop, from its key."""
    names = view.frames[[*KEY, "frame"]].astype(str).agg("/".join, axis=1)
    return [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in names]


def _each(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable:
    """A perturbation of single images that draws nothing."""
    return lambda images, amount, _: np.stack([change(image, amount) for image in images])


def _jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    return cv2.imdecode(cv2.imencode(".jpg", image[..., ::-1], options)[1], cv2.IMREAD_COLOR)[..., ::-1]


def _blur(image: np.ndarray, percent: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), percent / 100 * image.shape[1])


def _shrink(image: np.ndarray, factor: float) -> np.ndarray:
    size = image.shape[1::-1]
    small = [max(1, round(side / factor)) for side in size]
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_CUBIC)


def _noise(images: np.ndarray, deviation: float, generators: list[np.random.Generator]) -> np.ndarray:
    grain = np.stack([each.standard_normal(images.shape[1:], np.float32) for each in generators])
    return _bytes(images + deviation * grain)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


KINDS = {
    "H.264": Kind("quantiser {}", (23, 28, 33, 38, 43), lambda images, amount, _: encoding.recompress(images, amount)),
    "JPEG": Kind("quality {}", (90, 70, 50, 30, 10), _each(_jpeg)),
    "blur": Kind("deviation {} % of the side", (0.5, 1, 1.5, 2.5, 4), _each(_blur)),
    "noise": Kind("deviation {} grey levels", (2, 4, 8, 16, 32), _noise),
    "shrinking": Kind("side divided by {}", (1.5, 2, 3, 4, 6), _each(_shrink)),
    "brightness": Kind("{} grey levels added", (10, 20, 35, 50, 70),
                       lambda images, amount, _: _bytes(images + np.float32(amount))),
}
