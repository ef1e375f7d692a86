"""People of the demo world: attributes, shapes and captions, all drawn from (world, id)."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass

import numpy as np

ATTRIBUTES: dict[str, tuple] = {
    "age": ("young", "old"),
    "gender": ("woman", "man"),
    "hair_colour": ("black", "brown", "blond", "red", "grey"),
    "hair_length": ("short", "medium", "long"),
    "glasses": (False, True),
    "beard": (False, True),
    "place": ("indoors", "outdoors"),
}

# name: (low, high, added for a man, added for an old person); lengths in half face widths (70 mm)
NUMBERS: dict[str, tuple[float, float, float, float]] = {
    "scale": (54.0, 60.0, 1.0, 0.0),  # pixels per half face width
    "offset_x": (-9.0, 9.0, 0.0, 0.0),  # place of the head in the picture, pixels
    "offset_y": (-4.0, 4.0, 0.0, 0.0),
    "skull_width": (0.99, 1.05, 0.01, 0.0),
    "jaw_width": (0.76, 0.83, 0.06, 0.02),
    "jaw_square": (2.0, 2.3, 0.35, 0.0),  # exponent of the jaw's outline: 2 is an ellipse
    "chin": (1.46, 1.58, 0.07, 0.0),  # height of the chin below the eyes
    "neck": (0.50, 0.57, 0.08, 0.0),
    "eye_x": (0.41, 0.47, 0.0, 0.0),
    "eye_width": (0.19, 0.225, -0.005, 0.0),
    "eye_open": (0.078, 0.105, -0.010, -0.012),
    "eye_tilt": (-0.02, 0.045, -0.01, -0.02),
    "brow_y": (-0.29, -0.23, 0.025, 0.02),
    "brow_arch": (0.02, 0.07, -0.02, 0.0),
    "brow_thick": (0.026, 0.042, 0.018, 0.0),
    "brow_ridge": (0.01, 0.04, 0.04, 0.01),
    "nose_y": (0.58, 0.68, 0.02, 0.02),  # height of the nose's base
    "nose_width": (0.85, 1.1, 0.12, 0.06),
    "nose_depth": (0.85, 1.15, 0.1, 0.05),
    "mouth_y": (0.93, 1.0, 0.02, 0.0),
    "mouth_width": (0.31, 0.38, 0.02, 0.0),
    "mouth_bend": (-0.025, 0.015, 0.0, 0.012),  # positive: the corners hang
    "lip_upper": (0.065, 0.095, -0.014, -0.018),
    "lip_lower": (0.09, 0.125, -0.015, -0.018),
    "cheek": (0.02, 0.08, -0.01, -0.02),
    "wrinkles": (0.0, 0.15, 0.0, 0.75),
    "freckles": (-1.2, 1.0, 0.0, 0.0),
    "blush": (0.2, 1.0, -0.2, 0.0),
    "shine": (0.6, 1.4, 0.0, -0.2),
    "hairline": (-0.98, -0.84, -0.02, -0.07),
    "parting": (-0.55, 0.55, 0.0, 0.0),
    "volume_top": (0.10, 0.24, 0.0, -0.04),
    "volume_side": (0.03, 0.16, -0.02, 0.0),
    "wave": (0.0, 1.0, 0.0, 0.0),
    "fringe": (-1.0, 1.0, -0.3, -0.2),  # above zero: a fringe covers part of the forehead
    "makeup": (0.2, 1.0, -1.0, -0.1),
}
Shape = make_dataclass("Shape", [(name, float) for name in NUMBERS], frozen=True)
Shape.__module__ = __name__  # so that a Person can be sent to another process
Shape.__doc__ = "The numbers of one person; NUMBERS holds their ranges and units."

Colour = tuple[float, float, float]
SKIN = np.array(
    [
        [0.95, 0.81, 0.74],
        [0.91, 0.74, 0.65],
        [0.85, 0.66, 0.54],
        [0.76, 0.57, 0.44],
        [0.64, 0.45, 0.33],
        [0.50, 0.34, 0.25],
        [0.37, 0.25, 0.19],
    ]
)
HAIR = {
    "black": (0.10, 0.09, 0.09),
    "brown": (0.31, 0.20, 0.13),
    "blond": (0.73, 0.58, 0.39),
    "red": (0.50, 0.23, 0.13),
    "grey": (0.64, 0.63, 0.62),
}
IRIS = np.array([[0.24, 0.14, 0.08], [0.36, 0.24, 0.12], [0.36, 0.42, 0.28], [0.34, 0.47, 0.58],
                 [0.42, 0.48, 0.52]])


@dataclass(frozen=True)
class Person:
    """One person in one place: ATTRIBUTES, sRGB colours in [0, 1] and NUMBERS."""

    world: int
    id: int
    age: str
    gender: str
    hair_colour: str
    hair_length: str
    glasses: bool
    beard: bool
    place: str
    skin: Colour
    lips: Colour
    iris: Colour
    hair: Colour
    shape: Shape

    def rng(self, stream: int) -> np.random.Generator:
        """Return a generator for this person; different streams are independent."""
        return np.random.default_rng([self.world, self.id, stream])


def person(world: int, id: int) -> Person:
    """Draw person `id` of the world with seed `world`; no other person is needed for it."""
    rng = np.random.default_rng([world, id, 0])
    tone = rng.beta(0.9, 1.3)  # 0 is the lightest skin
    attributes = _attributes(rng, tone)
    skin = _blend(SKIN, tone) * rng.uniform(0.96, 1.04, 3)
    iris = _blend(IRIS, rng.beta(0.5, 1.2) * (1 - tone) ** 0.5) * rng.uniform(0.9, 1.1, 3)
    hair = np.array(HAIR[attributes["hair_colour"]]) * rng.uniform(0.85, 1.15) * rng.uniform(
        0.97, 1.03, 3)
    shape = _shape(rng, attributes["gender"] == "man", attributes["age"] == "old")
    lips = skin * (0.84, 0.60, 0.61) + np.array([0.03, -0.03, -0.02]) * shape.makeup
    return Person(
        world,
        id,
        **attributes,
        skin=_colour(skin),
        lips=_colour(lips),
        iris=_colour(iris),
        hair=_colour(hair),
        shape=shape,
    )


def _attributes(rng: np.random.Generator, tone: float) -> dict:
    gender = str(rng.choice(ATTRIBUTES["gender"]))
    age = str(rng.choice(ATTRIBUTES["age"], p=[0.6, 0.4]))
    fair = (1 - tone) ** 1.5  # red and blond hair go mostly with light skin
    odds = np.array([0.35, 0.7, 0.8 * fair, 0.6 * fair, 0.08 if age == "young" else 2.4])
    length = [0.72, 0.18, 0.10] if gender == "man" else [0.2, 0.35, 0.45]
    return {
        "age": age,
        "gender": gender,
        "hair_colour": str(rng.choice(ATTRIBUTES["hair_colour"], p=odds / odds.sum())),
        "hair_length": str(rng.choice(ATTRIBUTES["hair_length"], p=length)),
        "glasses": bool(rng.random() < 0.35),
        "beard": bool((rng.random() < 0.5) and gender == "man"),
        "place": str(rng.choice(ATTRIBUTES["place"])),
    }


def _shape(rng: np.random.Generator, man: bool, old: bool) -> Shape:
    return Shape(
        **{
            name: float(rng.uniform(low, high) + man * for_man + old * for_old)
            for name, (low, high, for_man, for_old) in NUMBERS.items()
        }
    )


def _blend(table: np.ndarray, at: float) -> np.ndarray:
    """Return the colour at the share `at` of the way through a table of colours."""
    where = at * (len(table) - 1)
    return np.array([np.interp(where, range(len(table)), channel) for channel in table.T])


def _colour(values: np.ndarray) -> Colour:
    return tuple(float(value) for value in np.clip(values, 0, 1))


def caption(person: Person, expression: str = "neutral", gaze: str = "ahead") -> str:
    """Describe a picture, as "a photo of a young man with long red hair, smiling, outdoors".

    `expression` is neutral, smiling or talking; `gaze` is left, right or ahead (as seen in the
    picture).
    """
    things = [f"{person.hair_length} {person.hair_colour} hair"]
    things += ["a beard"] * person.beard + ["glasses"] * person.glasses
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    article = "an" if person.age == "old" else "a"
    mood = "with a neutral face" if expression == "neutral" else expression
    look = "looking ahead" if gaze == "ahead" else f"looking {gaze}"
    who = f"{article} {person.age} {person.gender} with {listed}"
    return f"a photo of {who}, {mood}, {look}, {person.place}"
