"""A multimodal model that is asked, not trained (Can ChatGPT Detect DeepFakes?, arXiv 2403.14077).

It stands behind any OpenAI-compatible endpoint: a base URL and a model's name; the key comes from
the environment alone. The pictures are sent to that endpoint. Check whether the terms of use of the
data allow it.
"""

import html
from typing import Self

import numpy as np
import pandas as pd
from torch import nn

from dfnb import KEY, UserError
from dfnb.data import crop_cache
from dfnb.detectors.base import Detector
from dfnb.detectors.endpoint import ANSWERS, Endpoint, classify, data_url
from dfnb.detectors.schedule import check_least
from dfnb.models.clip import Clip

PROMPT = (
    "Tell me if there are synthesis artifacts in the face or not. Must return with 1) yes or no "
    "only; 2) if yes, explain where the artifacts exist by answering in [region, artifacts] form."
)


class NoEndpoint(UserError):
    """There is no endpoint to ask, so the detector was not run."""


class Multimodal(Detector):
    """p(fake) = the share of "yes" among the repeats that were answered yes or no.

    `trainable` = 0.
    """

    name = "multimodal"

    def __init__(self, clip: Clip, options: dict, *, seed: int = 0):
        super().__init__(clip, options, seed=seed)
        self.endpoint = Endpoint(**{name: options[name] for name in Endpoint.__dataclass_fields__})
        self.calls = 0

    @classmethod
    def fit(cls, train, validation, *, clip: Clip, seed: int = 0, base_url: str | None = None,
            model: str | None = None, repeats: int = 5, frames: int = 1, most_calls: int = 200,
            prompt: str = PROMPT, fields: dict | None = None, timeout: float = 60.0,
            retries: int = 4, at_once: int = 4) -> Self:
        """Return a detector that asks `model` at `base_url`.

        Nothing is trained: the crops, `clip` and `seed` have no effect. The model is asked about
        `frames` crops of each video, `repeats` times each. `fields`: further fields of the request,
        by default {"max_tokens": 300}; the other options are those of `Endpoint`. Raises NoEndpoint
        where there is no endpoint.
        """
        needed = {"base_url": base_url, "model": model}
        if lacking := [name for name, value in needed.items() if not value]:
            raise NoEndpoint(
                f"multimodal was not run: it lacks {' and '.join(lacking)} of an OpenAI-compatible "
                "endpoint, such as http://localhost:8000/v1; a key, if it needs one, goes into "
                "$OPENAI_API_KEY")
        options = needed | {
            "prompt": prompt, "fields": {"max_tokens": 300} if fields is None else fields,
            "timeout": timeout, "retries": retries, "at_once": at_once, "repeats": repeats,
            "frames": frames, "most_calls": most_calls}
        check_least(options, repeats=1, frames=1, most_calls=1)
        return cls(clip, options)

    @staticmethod
    def build(clip: Clip, options: dict) -> nn.Module:
        """Return a module without tensors."""
        return nn.Module()

    def score(self, crops) -> np.ndarray:
        """Return the share of "yes" (n,) float32; print the number of answers of each kind.

        It is NaN for a crop that was not asked about or never answered with yes or no: a refusal is
        neither "real" nor one half. Drop the NaN before any measure, and report their number.
        """
        table = self.transcripts(crops)
        answered = table[table.answer.isin(["yes", "no"])]
        scores = np.full(len(crops), np.nan, np.float32)
        shares = answered.answer.eq("yes").groupby(answered.row).mean()
        scores[shares.index.to_numpy(int)] = shares
        counts = ", ".join(f"{table.answer.eq(answer).sum()} {answer}" for answer in ANSWERS)
        asked = table.row.nunique()
        print(f"{len(table)} answers: {counts}; {asked - len(shares)} of {asked} crops without an "
              "answer have no score")
        return scores

    def transcripts(self, crops) -> pd.DataFrame:
        """Return one row per crop asked about and repeat: its keys, row, repeat, the answer.

        Kept answers are not asked for again. The number of calls and their cost are printed before
        the first call. Raises UserError for more than `most_calls` calls of this detector in all.
        """
        rows = _asked(crops, self.options["frames"]).tolist()
        pictures = dict(zip(rows, crops.images(np.array(rows)), strict=True))
        hashes = {row: crop_cache.digest(picture) for row, picture in pictures.items()}
        wanted = [(row, repeat) for row in rows for repeat in range(self.options["repeats"])]
        kept = {at: self.endpoint.kept(hashes[at[0]], at[1]) for at in wanted}
        missing = {(hashes[row], repeat): (pictures[row], repeat)  # equal pictures: one question
                   for row, repeat in wanted if not kept[row, repeat]}
        self._announce(len(missing), [one["seconds"] for one in kept.values() if one])
        for _ in self.endpoint.ask(list(missing.values())):
            self.calls += 1
        table = crops.frames.iloc[[row for row, _ in wanted]][[*KEY, "frame", "label"]]
        table = table.reset_index(drop=True)
        texts = [self.endpoint.kept(hashes[row], repeat) for row, repeat in wanted]
        table[["row", "repeat"]] = wanted
        table[["answer", "explanation"]] = [classify(one["text"], refused=one["refused"])
                                            for one in texts]
        return table

    def _announce(self, calls: int, seconds: list[float]) -> None:
        """Print what some calls may cost; UserError where they are too many."""
        most = self.options["most_calls"]
        if not calls:
            return
        estimate = self.endpoint.estimate(calls, seconds)
        if self.calls + calls > most:
            before = f" after {self.calls} before" if self.calls else ""
            raise UserError(f"most_calls is {most}, this would be {estimate}{before}; raise it, or "
                            f"ask about fewer frames (frames = {self.options['frames']}) or less "
                            "often")
        print(estimate)

    def save_model(self, folder) -> None:
        """Write nothing: there are no tensors, and the key is in no file."""

    def load_model(self, folder) -> None:
        """Read nothing.

        The detector sends pictures, and the key, to the endpoint that the metadata names: load no
        metadata of an author whom you do not trust.
        """


def _asked(crops, most: int) -> np.ndarray:
    """Return the rows of at most `most` crops of each video, evenly spaced."""
    rows = []
    for here in crops.frames.groupby(KEY, sort=False).indices.values():
        count = min(most, len(here))
        rows.append(here[(np.arange(count) * len(here) + len(here) // 2) // count])
    return np.sort(np.concatenate(rows))


def page(crops, transcripts: pd.DataFrame) -> str:
    """Return HTML: each crop beside the answers about it; the model's words are escaped."""
    sections = []
    for row, here in transcripts.groupby("row", sort=False):
        first = here.iloc[0]
        name = html.escape(f"{first.manipulation} {first.video}, frame {first.frame}")
        answers = "".join(f"<li>{html.escape(f'{one.answer}: {one.explanation}')}</li>"
                          for one in here.itertuples())
        picture = f'<img width="128" alt="" src="{data_url(crops.images(np.array([row]))[0])}">'
        sections.append(f"<tr><td>{picture}<br>{name}</td><td><ul>{answers}</ul></td></tr>")
    return f'<table class="mathjax_ignore">{"".join(sections)}</table>'
