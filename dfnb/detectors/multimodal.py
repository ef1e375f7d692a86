"""A multimodal model that is asked, not trained (Can ChatGPT Detect DeepFakes?, arXiv 2403.14077).

Any OpenAI-compatible endpoint: a base URL and a model's name; the key comes from the environment alone. The pictures go
to that endpoint: with data under terms of use, see whether they allow it.
"""

import html
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from dfnb import KEY, UserError
from dfnb.data import crop_cache
from dfnb.detectors.base import card, read_card, write_card
from dfnb.detectors.endpoint import ANSWERS, Endpoint, classify, data_url
from dfnb.models.clip import Clip

PROMPT = (
    "Tell me if there are synthesis artifacts in the face or not. Must return with 1) yes or no only; "
    "2) if yes, explain where the artifacts exist by answering in [region, artifacts] form."
)


class NoEndpoint(UserError):
    """There is nobody to ask: the method was not run."""


class Multimodal:
    """p(fake) = the share of "yes" among the repeats that were answered with yes or no. `trainable` = 0."""

    trainable = 0

    def __init__(self, endpoint: Endpoint, card: dict, say: Callable[[str], None]):
        self.endpoint, self.card, self.history, self.say, self.calls = endpoint, card, card["history"], say, 0

    def score(self, crops) -> np.ndarray:
        """(n,) float32; NaN for a crop that was not asked about or never answered with yes or no, and it says how many.

        A refusal is no answer: neither "real" nor one half. Drop the NaN before any measure, and report their number.
        """
        text = self.transcripts(crops)
        answered = text[text.answer.isin(["yes", "no"])]
        scores = np.full(len(crops), np.nan, np.float32)
        shares = answered.answer.eq("yes").groupby(answered.row).mean()
        scores[shares.index.to_numpy(int)] = shares
        counts = ", ".join(f"{text.answer.eq(answer).sum()} {answer}" for answer in ANSWERS)
        self.say(f"{len(text)} answers: {counts}; {text.row.nunique() - len(shares)} of {text.row.nunique()} crops "
                 f"without an answer have no score")
        return scores

    def transcripts(self, crops) -> pd.DataFrame:
        """One row per crop asked about and repeat: keys of the crop, row in the view, repeat, answer, explanation.

        What is kept is not asked again. Before the first call it says how many there will be and what they may cost;
        UserError if more than `most_calls` in this detector's life.
        """
        rows, repeats = self._asked(crops), self.card["options"]["repeats"]
        pictures = dict(zip(rows.tolist(), crops.images(rows), strict=True))
        hashes = {row: crop_cache.digest(picture) for row, picture in pictures.items()}
        wanted = [(row, repeat) for row in rows.tolist() for repeat in range(repeats)]
        found = {at: self.endpoint.known(hashes[at[0]], at[1]) for at in wanted}
        # one question for equal pictures
        missing = {(hashes[row], repeat): (pictures[row], repeat) for row, repeat in wanted if not found[row, repeat]}
        self._announce(len(missing), [kept["seconds"] for kept in found.values() if kept])
        for _ in self.endpoint.ask(list(missing.values())):
            self.calls += 1
        table = crops.frames.iloc[[row for row, _ in wanted]][[*KEY, "frame", "label"]].reset_index(drop=True)
        text = [self.endpoint.known(hashes[row], repeat) for row, repeat in wanted]
        answers = [classify(kept["text"], refused=kept["refused"]) for kept in text]
        table[["row", "repeat"]] = wanted
        table[["answer", "explanation"]] = answers
        return table

    def _asked(self, crops) -> np.ndarray:
        """Rows of at most `frames` crops of each video, evenly spaced."""
        most, rows = self.card["options"]["frames"], []
        for here in crops.frames.groupby(KEY, sort=False).indices.values():
            count = min(most, len(here))
            rows.append(here[(np.arange(count) * len(here) + len(here) // 2) // count])
        return np.sort(np.concatenate(rows))

    def _announce(self, calls: int, seconds: list[float]) -> None:
        most = self.card["options"]["most_calls"]
        if not calls:
            return
        estimate = self.endpoint.estimate(calls, seconds)
        if self.calls + calls > most:
            before = f" after {self.calls} before" if self.calls else ""
            raise UserError(f"most_calls is {most}, this would be {estimate}{before}; raise it, or ask about fewer "
                            f"frames (frames = {self.card['options']['frames']}) or less often")
        self.say(estimate)

    def save(self, folder: Path) -> None:
        """Write the card; there are no weights, and the key is in no file."""
        write_card(folder, self.card)


def fit(train, validation, *, clip: Clip, seed: int = 0, base_url: str | None = None, model: str | None = None,
        repeats: int = 5, frames: int = 1, most_calls: int = 200, prompt: str = PROMPT, fields: dict | None = None,
        timeout: float = 60.0, retries: int = 4, at_once: int = 4, say: Callable[[str], None] = print) -> Multimodal:
    """A detector that asks `model` at `base_url`; nothing is trained, so the crops, `clip` and `seed` have no effect.

    The card names `clip` as all cards do. `frames` crops a video are asked about, `repeats` times each; `fields`:
    further fields of the request, by default {"max_tokens": 300}; the rest as in `Endpoint`. Raises NoEndpoint, a
    UserError, where there is no endpoint.
    """
    if not base_url or not model:
        lacking = " and ".join(name for name, value in (("base_url", base_url), ("model", model)) if not value)
        raise NoEndpoint(f"multimodal was not run: it lacks {lacking} of an OpenAI-compatible endpoint, such as "
                         f"http://localhost:8000/v1; a key, if it needs one, goes into $OPENAI_API_KEY")
    for name, value in (("repeats", repeats), ("frames", frames), ("most_calls", most_calls)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    fields = {"max_tokens": 300} if fields is None else fields
    endpoint = Endpoint(base_url, model, prompt, fields, timeout, retries, at_once)
    options = asdict(endpoint) | {"repeats": repeats, "frames": frames, "most_calls": most_calls}
    return Multimodal(endpoint, card("multimodal", clip, 0, [], **options), say)


def load(folder: Path, clip: Clip, *, say: Callable[[str], None] = print) -> Multimodal:
    """The detector that `save` wrote; what the cache holds is not asked again.

    It sends pictures, and the key, to the endpoint that the card names: load no card of somebody you do not trust.
    """
    about = read_card(folder, "multimodal", clip)
    asked = {name: about["options"][name] for name in Endpoint.__dataclass_fields__}
    return Multimodal(Endpoint(**asked), about, say)


def page(crops, text: pd.DataFrame) -> str:
    """HTML: each crop of a table of transcripts beside what was said of it; a model's words are escaped."""
    sections = []
    for row, here in text.groupby("row", sort=False):
        first = here.iloc[0]
        name = html.escape(f"{first.manipulation} {first.video}, frame {first.frame}")
        said = "".join(f"<li>{html.escape(f'{one.answer}: {one.explanation}')}</li>" for one in here.itertuples())
        picture = f'<img width="128" alt="" src="{data_url(crops.images(np.array([row]))[0])}">'
        sections.append(f"<tr><td>{picture}<br>{name}</td><td><ul>{said}</ul></td></tr>")
    return f'<table class="mathjax_ignore">{"".join(sections)}</table>'
