"""Find one face per clip: detect, follow, smooth and cut out."""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Face = tuple[Box, float]  # and its detection score
Detect = Callable[[np.ndarray], list[Face]]  # of a grey picture, uint8 (h, w)

KEPT, NO_FACE = "kept", "no face"
OTHER_FACE, LEAVES = "only another face", "face leaves the picture"
SHORT_SIDE = 512  # pixels, at most, of the picture that is searched first, see `find`
STEP = 6 / 5  # from one level of dlib's pyramid to the next: boxes have sizes of 80 STEP^n pixels
SAME_FACE = 0.1  # least overlap (intersection over union) of one face in two successive frames
SMOOTHING = 0.1  # seconds, standard deviation of the Gaussian over time


@functools.cache
def detector() -> Detect:
    """Return dlib's frontal face detector (HOG, weights included), for faces from 80 pixels on."""
    import dlib

    hog = dlib.get_frontal_face_detector()

    def detect(grey: np.ndarray) -> list[Face]:
        boxes, scores, _ = hog.run(grey, 0, 0.0)
        corners = [(box.left(), box.top(), box.right() + 1, box.bottom() + 1) for box in boxes]
        return list(zip(corners, scores, strict=True))

    return detect


def find(frame: np.ndarray, detect: Detect) -> list[Face]:
    """Return the faces of one RGB frame (h, w, 3): boxes in pixels of the frame, and scores.

    FaceForensics++'s recipe searches the picture at twice its size, at four times the cost. This
    function searches a level of the same pyramid, 2 / STEP^n times the size, so that a face gets
    the same box: the first level with a short side of at most 512, no larger than the picture. In
    256 and 480 rows that level holds faces from 83 pixels on, in 720p from 120, in 1080p from 172.
    Where it shows no face, n = 3 is searched, with faces from 70 pixels on.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    first = max(4, math.ceil(math.log(2 * min(grey.shape) / SHORT_SIDE, STEP)))
    for level in (first, 3):
        scale = 2 / STEP**level
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        if found := detect(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)):
            return [(tuple(float(edge / scale) for edge in box), float(score))
                    for box, score in found]
    return []


def track(frames: np.ndarray, detect: Detect, *, pts: np.ndarray | None = None) -> pd.DataFrame:
    """Follow one face through a clip (n, h, w, 3).

    Returns a row per frame with x0, y0, x1, y1, score, faces, status. Faces are linked from one
    frame to the next by overlap. The clip's face is the chain with the largest sum of box sides:
    large and lasting, not the best score. Boxes are square, without margin, and smoothed over time
    where `pts` (seconds, (n,)) is given. `status` is "kept" or the reason for the loss of a frame.
    A lost frame has no box (nan), unless its box lies more than half outside. `faces` counts the
    faces found.
    """
    found = [find(frame, detect) for frame in frames]
    squares, status = _follow(found)
    if pts is not None:
        squares[:, :3] = _smooth(squares[:, :3], np.asarray(pts, float))
    x, y, side, score = squares.T
    boxes = np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=1)  # (n, 4)
    height, width = frames.shape[1:3]
    status[_share_inside(boxes, width, height) < 0.5] = LEAVES
    table = pd.DataFrame(boxes, columns=["x0", "y0", "x1", "y1"])
    return table.assign(score=score, faces=[len(faces) for faces in found], status=status)


def widen(box: Box, margin: float) -> Box:
    """Enlarge the box by the factor `margin` around its centre (FF++'s own baseline uses 1.3)."""
    x0, y0, x1, y1 = box
    x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, margin / 2
    return x - half * (x1 - x0), y - half * (y1 - y0), x + half * (x1 - x0), y + half * (y1 - y0)


def crop(frame: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cut the square `box` out of an RGB frame as uint8 (size, size, 3): whole pixels, one resize.

    Pixels outside the frame are reflected: a black border would be an easy, false trace.
    """
    height, width = frame.shape[:2]
    side = max(1, round(box[2] - box[0]))
    left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    outside = (max(0, -top), max(0, top + side - height),
               max(0, -left), max(0, left + side - width))
    if any(outside):
        frame = cv2.copyMakeBorder(frame, *outside, cv2.BORDER_REFLECT_101)
    top, left = top + outside[0], left + outside[2]
    square = frame[top : top + side, left : left + side]
    how = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=how)


def _follow(found: list[list[Face]]) -> tuple[np.ndarray, np.ndarray]:
    """Return centre x, centre y, side and score of the clip's face (n, 4), and status (n,)."""
    squares = np.full((len(found), 4), np.nan)
    status = np.array([OTHER_FACE if faces else NO_FACE for faces in found], dtype=object)
    for at, face in _main_chain(found).items():
        box, score = found[at][face]
        squares[at] = *_square(box), score
        status[at] = KEPT
    return squares, status


def _main_chain(found: list[list[Face]]) -> dict[int, int]:
    """Map each frame that holds the clip's face to the index of that face in the frame."""
    chains: list[dict[int, int]] = []  # frame -> face
    for at, faces in enumerate(found):
        ends = [found[max(chain)][chain[max(chain)]][0] for chain in chains]
        links = [(_overlap(end, box), number, face) for number, end in enumerate(ends)
                 for face, (box, _) in enumerate(faces)]
        taken_chains, taken_faces = set(), set()
        for overlap, number, face in sorted(links, key=lambda link: -link[0]):
            if overlap >= SAME_FACE and number not in taken_chains and face not in taken_faces:
                chains[number][at] = face
                taken_chains.add(number)
                taken_faces.add(face)
        chains += [{at: face} for face in range(len(faces)) if face not in taken_faces]
    weights = [sum(_square(found[at][face][0])[2] for at, face in chain.items())
               for chain in chains]
    return chains[int(np.argmax(weights))] if chains else {}


def _square(box: Box) -> tuple[float, float, float]:
    """Return centre and side of the square around a box."""
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


def _share_inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the share of each box's area (n, 4) inside the frame; nan for a missing box."""
    x0, y0, x1, y1 = boxes.T
    inside_x = (np.minimum(x1, width) - np.maximum(x0, 0)).clip(0)
    inside_y = (np.minimum(y1, height) - np.maximum(y0, 0)).clip(0)
    return inside_x * inside_y / ((x1 - x0) * (y1 - y0))


def _smooth(squares: np.ndarray, pts: np.ndarray) -> np.ndarray:
    """Return the Gaussian mean over time of rows (n, 3); rows with nan stay and get no weight.

    The width is in seconds. Frames far apart (8 of a long clip) therefore keep their own boxes,
    while the detector's jitter is averaged away where frames are close.
    """
    there = ~np.isnan(squares[:, 0])
    apart = pts[there, None] - pts[None, there]  # seconds
    weights = np.exp(-0.5 * (apart / SMOOTHING) ** 2)
    smooth = squares.copy()
    smooth[there] = weights @ squares[there] / weights.sum(axis=1, keepdims=True)
    return smooth
