"""Perturb crops: recompression, blur, noise, scaling and brightness, each in five strengths."""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import av
import cv2
import numpy as np

from dfnb import KEY, UserError
from dfnb.data.crops import CropView


@dataclass(frozen=True)
class Kind:
    """One perturbation: `apply(images, amount, generators)` at five amounts, mild to heavy."""

    unit: str  # a text with {} for the amount
    amounts: tuple[float, float, float, float, float]
    apply: Callable[[np.ndarray, float, list[np.random.Generator]], np.ndarray]

    def names(self) -> list[str]:
        """Return the strengths in words, from 0 (none) to 5."""
        return ["none", *(self.unit.format(f"{amount:g}") for amount in self.amounts)]


def apply(view: CropView, kind: str, strength: int, seed: int = 0) -> CropView:
    """Return the crops of a view, in memory, after one perturbation of strength 0 to 5.

    Strength 0 changes nothing. A crop's result does not depend on the other crops in the view.
    Random draws follow from `seed` and the crop's key.
    """
    if kind not in KINDS:
        raise UserError(f"there is no perturbation {kind!r}; there are {', '.join(KINDS)}")
    if strength not in range(6):
        raise UserError(f"a strength is a whole number from 0 (none) to 5, got {strength!r}")
    images = view.images()
    if strength and len(view):
        amount = KINDS[kind].amounts[strength - 1]
        images = KINDS[kind].apply(images, amount, _generators(view, seed))
    return CropView.of_arrays(images, view.frames)


def _generators(view: CropView, seed: int) -> list[np.random.Generator]:
    """Return a generator for each crop, from its key."""
    names = view.frames[[*KEY, "frame"]].astype(str).agg("/".join, axis=1)
    return [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in names]


def recompress(images: np.ndarray, quantiser: int) -> np.ndarray:
    """Return images uint8 (n, h, w, 3) after H.264 with a constant quantiser.

    The quantiser lies in 0 to 51; c23 and c40 of FF++ are named after theirs. Each image is coded
    without prediction from a neighbour, so its result does not depend on the others.
    """
    height, width = images.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))  # 4:2:0 halves the sides
    even = np.pad(images, padding, mode="edge")
    options = {"qp": str(quantiser), "g": "1", "threads": "1",
               "x264-params": "cpu-independent=1:ipratio=1"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        coded = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
    return np.stack(coded)[:, :height, :width]


def _each(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable:
    """Return a perturbation of single images without random draws."""
    return lambda images, amount, _: np.stack([change(image, amount) for image in images])


def _jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    encoded = cv2.imencode(".jpg", image[..., ::-1], options)[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def _blur(image: np.ndarray, percent: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), percent / 100 * image.shape[1])


def _shrink(image: np.ndarray, factor: float) -> np.ndarray:
    size = image.shape[1::-1]
    smaller = [max(1, round(side / factor)) for side in size]
    small = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def _noise(images: np.ndarray, deviation: float, generators: list) -> np.ndarray:
    grain = np.stack([each.standard_normal(images.shape[1:], np.float32) for each in generators])
    return _bytes(images + deviation * grain)


def _brighten(image: np.ndarray, amount: float) -> np.ndarray:
    return _bytes(image + np.float32(amount))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


KINDS = {
    "H.264": Kind("quantiser {}", (23, 28, 33, 38, 43),
                  lambda images, amount, _: recompress(images, amount)),
    "JPEG": Kind("quality {}", (90, 70, 50, 30, 10), _each(_jpeg)),
    "blur": Kind("deviation {} % of the side", (0.5, 1, 1.5, 2.5, 4), _each(_blur)),
    "noise": Kind("deviation {} grey levels", (2, 4, 8, 16, 32), _noise),
    "shrinking": Kind("side divided by {}", (1.5, 2, 3, 4, 6), _each(_shrink)),
    "brightness": Kind("{} grey levels added", (10, 20, 35, 50, 70), _each(_brighten)),
}
