"""From frames to one face per clip: detect, follow, smooth, cut out. The detector is a function passed in."""

import math
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Detect = Callable[[np.ndarray], list[tuple[Box, float]]]  # grey uint8 (h, w) -> boxes and scores

KEPT, NO_FACE, OTHER_FACE, LEAVES = "kept", "no face", "only another face", "face leaves the picture"
SHORT_SIDE = 512  # pixels, at most, of the picture that is searched first, see `find`
STEP = 6 / 5  # from one level of dlib's pyramid to the next: its boxes have sizes of 80 STEP^n pixels alone
SAME_FACE = 0.1  # least overlap (intersection over union) of one face in two frames that were searched
SMOOTHING = 0.1  # seconds, standard deviation of the Gaussian over time


def detector() -> Detect:
    """dlib's frontal face detector (HOG), which carries its own weights; it finds faces from 80 pixels on."""
    import dlib

    hog = dlib.get_frontal_face_detector()

    def detect(grey: np.ndarray) -> list[tuple[Box, float]]:
        boxes, scores, _ = hog.run(grey, 0, 0.0)
        corners = [(box.left(), box.top(), box.right() + 1, box.bottom() + 1) for box in boxes]
        return list(zip(corners, scores, strict=True))

    return detect


def find(frame: np.ndarray, detect: Detect) -> list[tuple[Box, float]]:
    """Faces of one RGB frame (h, w, 3), as boxes in its own pixels, with scores.

    FaceForensics++'s recipe searches the picture at twice its size, which costs four times its area. Searched
    here is a level of that very pyramid, 2 / STEP^n times the size, so that a face gets the same box: the first
    with a short side of at most 512, no larger than the picture. In 256 and 480 rows it holds faces from 83 pixels
    on, in 720p from 120, in 1080p from 172. Where it holds none, n = 3 is searched, with faces from 70 pixels on.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    first = max(4, math.ceil(math.log(2 * min(grey.shape) / SHORT_SIDE, STEP)))
    for level in (first, 3):
        scale = 2 / STEP**level
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        if found := detect(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)):
            return [(tuple(float(edge / scale) for edge in box), float(score)) for box, score in found]
    return []


def track(
    frames: np.ndarray, detect: Detect, *, pts: np.ndarray | None = None, every: int = 1
) -> pd.DataFrame:
    """One face through a clip (n, h, w, 3): a row per frame with x0, y0, x1, y1, score, faces, status.

    Faces are searched in every `every`-th frame and in the last, and linked from one searched frame to the
    next by overlap. The clip's face is the chain with the largest sum of box sides: large and lasting, not
    the best score. Boxes are square, without margin, interpolated between searched frames, and smoothed over
    time where `pts` (seconds, (n,)) is given. `status` is "kept" or the reason why not; then the box is
    missing (nan), except for a face whose box lies more than half outside. `faces` counts the faces seen.
    """
    searched = np.array(sorted({*range(0, len(frames), every), len(frames) - 1}))
    found = [find(frames[at], detect) for at in searched]
    squares, status = _follow(found)
    squares, status = _between(searched, squares, status)
    if pts is not None:
        squares[:, :3] = _smooth(squares[:, :3], np.asarray(pts, float))
    x, y, side, score = squares.T
    boxes = np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=1)  # (n, 4)
    height, width = frames.shape[1:3]
    status[_share_inside(boxes, width, height) < 0.5] = LEAVES
    faces = np.repeat([len(faces) for faces in found], np.diff([*searched, len(frames)]))
    table = pd.DataFrame(boxes, columns=["x0", "y0", "x1", "y1"])
    return table.assign(score=score, faces=faces, status=status)


def widen(box: Box, margin: float) -> Box:
    """The box enlarged by the factor `margin` around its centre (FF++'s own baseline uses 1.3)."""
    x0, y0, x1, y1 = box
    x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, margin / 2
    return x - half * (x1 - x0), y - half * (y1 - y0), x + half * (x1 - x0), y + half * (y1 - y0)


def crop(frame: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The square `box` of an RGB frame as uint8 (size, size, 3): whole pixels, one resize.

    What lies outside the frame is filled by reflection: a black border would be an easy, false trace.
    """
    height, width = frame.shape[:2]
    side = max(1, round(box[2] - box[0]))
    left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    outside = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
    if any(outside):
        frame = cv2.copyMakeBorder(frame, *outside, cv2.BORDER_REFLECT_101)
    top, left = top + outside[0], left + outside[2]
    shrinks = size < side
    return cv2.resize(
        frame[top : top + side, left : left + side],
        (size, size),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
    )


def _follow(found: list[list[tuple[Box, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Of m searched frames: centre x, centre y, side, score of the clip's face (m, 4) and status (m,)."""
    squares = np.full((len(found), 4), np.nan)
    status = np.array([OTHER_FACE if faces else NO_FACE for faces in found], dtype=object)
    for at, face in _main_chain(found).items():
        box, score = found[at][face]
        squares[at] = *_square(box), score
        status[at] = KEPT
    return squares, status


def _between(searched: np.ndarray, squares: np.ndarray, status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the searched frames spread to all; between two of them, both must hold the face."""
    every_frame = np.arange(searched[-1] + 1)
    after = np.searchsorted(searched, every_frame)
    before = np.where(searched[after] == every_frame, after, after - 1)
    gap = np.maximum(searched[after] - searched[before], 1)
    share = ((every_frame - searched[before]) / gap)[:, None]
    return (
        (1 - share) * squares[before] + share * squares[after],
        np.where(status[before] == KEPT, status[after], status[before]),
    )


def _main_chain(found: list[list[tuple[Box, float]]]) -> dict[int, int]:
    """Which searched frames hold the clip's face, and which of their faces it is."""
    chains: list[dict[int, int]] = []  # searched frame -> face
    for at, faces in enumerate(found):
        links = [
            (_overlap(found[last][chain[last]][0], box), number, face)
            for number, chain in enumerate(chains)
            for last in [max(chain)]
            for face, (box, _) in enumerate(faces)
        ]
        taken_chains, taken_faces = set(), set()
        for overlap, number, face in sorted(links, key=lambda link: -link[0]):
            if overlap >= SAME_FACE and number not in taken_chains and face not in taken_faces:
                chains[number][at] = face
                taken_chains.add(number)
                taken_faces.add(face)
        chains += [{at: face} for face in range(len(faces)) if face not in taken_faces]
    weights = [sum(_square(found[at][face][0])[2] for at, face in chain.items()) for chain in chains]
    return chains[int(np.argmax(weights))] if chains else {}


def _square(box: Box) -> tuple[float, float, float]:
    """Centre and side of the square around a box."""
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


def _share_inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Share of each box's (n, 4) area that lies inside the frame; nan for a missing box."""
    x0, y0, x1, y1 = boxes.T
    inside_x = (np.minimum(x1, width) - np.maximum(x0, 0)).clip(0)
    inside_y = (np.minimum(y1, height) - np.maximum(y0, 0)).clip(0)
    return inside_x * inside_y / ((x1 - x0) * (y1 - y0))


def _smooth(squares: np.ndarray, pts: np.ndarray) -> np.ndarray:
    """Gaussian mean over time of rows (n, 3); rows with nan stay so and lend no weight.

    The width is in seconds, so frames far apart (8 of a long clip) keep their own boxes, while the jitter of
    the detector is averaged away where frames are close.
    """
    there = ~np.isnan(squares[:, 0])
    apart = pts[there, None] - pts[None, there]  # seconds
    weights = np.exp(-0.5 * (apart / SMOOTHING) ** 2)
    smooth = squares.copy()
    smooth[there] = weights @ squares[there] / weights.sum(axis=1, keepdims=True)
    return smooth
