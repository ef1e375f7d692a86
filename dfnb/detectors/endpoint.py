"""An OpenAI-compatible vision endpoint: one question about one picture.

Calls are bounded, answers are kept on disk, and the key is never written.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from dfnb import UserError, files
from dfnb.data import crop_cache
from dfnb.detectors.schedule import check_least

KEY = "OPENAI_API_KEY"  # the only place that a key is read from
ANSWERS = ("yes", "no", "refusal", "garbage")
IMAGE_TOKENS = 255  # OpenAI's count for a picture of one tile (85 + 170); other servers differ
SECONDS = 3.0  # assumed of a call while none has been measured
FILTERED = {"content_filter", "content_policy_violation"}  # a refusal that comes as an error

THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)
CHOICE = re.compile(r"^\W*(?:1\W+)?(yes|no)\b(?!\W*(?:or|/)\W*(?:yes|no)\b)", re.IGNORECASE)
UNABLE = re.compile(
    r"\bsorry\b|\bi(?: am|'m)(?: \w+)? (?:unable|not able)\b|\bas an ai\b|"
    r"\bi (?:can't|cannot|can not|won't|will not|must decline)\b"
    r"(?! (?:\w+ )?(?:see|find|detect|spot|observe|notice|discern|identify any)\b)", re.IGNORECASE)


def classify(text: str, *, refused: bool = False) -> tuple[str, str]:
    """Return one of ANSWERS, and the explanation that follows it.

    A yes or no begins with this word, alone or numbered, and says nowhere that its author cannot or
    will not judge: "No, I can't help with that" is a refusal, not a real face. What is neither an
    answer nor a refusal is garbage.
    """
    text = THOUGHT.sub("", text).strip()
    if refused or UNABLE.search(text.replace("\u2019", "'")):
        return "refusal", text
    if choice := CHOICE.match(text):
        rest = text[choice.end():].lstrip(" \t\r\n.,:;*-)")
        return choice[1].lower(), re.sub(r"^2\W\s*", "", rest)
    return "garbage", text


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask; `fields` are further fields of the request.

    An attempt ends after `timeout` seconds without a byte. `retries` is the number of further
    attempts after a time-out, a lost connection, 408, 409, 429 or 5xx. Each follows a pause that
    doubles from half a second to eight, with jitter, or that the server asks for, up to two
    minutes; where the server asks for more, the call ends. The openai client does all this.
    `at_once`: calls at the same time. Raises UserError for options that make no sense.
    """

    base_url: str
    model: str
    prompt: str
    fields: dict = field(default_factory=dict)
    timeout: float = 60.0
    retries: int = 4
    at_once: int = 4

    def __post_init__(self):
        url = urlsplit(self.base_url)
        if url.username or url.password or url.query:
            raise UserError(f"base_url must hold no user, password or query; the key goes into "
                            f"${KEY}")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(f"base_url must look like http://localhost:8000/v1, "
                            f"got {self.base_url!r}")
        check_least(vars(self), timeout=0.001, retries=0, at_once=1)
        if taken := {"model", "messages", "stream", "n"} & self.fields.keys():
            raise UserError(f"fields must not hold {' or '.join(sorted(taken))}: a call is one "
                            "question, one answer")
        written = json.dumps([self.base_url, self.model, self.prompt, self.fields])
        if _without_key(written) != written:
            raise UserError(f"the key belongs in ${KEY} alone: it stands in base_url, model, "
                            "prompt or fields")

    def path(self, image: str, repeat: int) -> Path:
        """Return the file of a transcript; `image` is the picture's hash."""
        question = [image, self.base_url, self.model, self.prompt, self.fields, repeat]
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        return files.cache() / "transcripts" / f"{digest[:32]}.json"

    def kept(self, image: str, repeat: int) -> dict | None:
        """Return the transcript that is kept, or None where there is none that can be read."""
        try:
            transcript = files.read_json(self.path(image, repeat))
        except UserError:
            return None
        return transcript if {"text", "refused", "seconds"} <= transcript.keys() else None

    def estimate(self, calls: int, seconds: list[float]) -> str:
        """Return how many calls, minutes and tokens to expect; `seconds` of calls before."""
        each = float(np.mean(seconds)) if seconds else SECONDS
        source = "as measured" if seconds else "assumed"
        questions = calls * (IMAGE_TOKENS + len(self.prompt) // 4)  # about four letters a token
        limits = [value for name, value in self.fields.items() if name.endswith("tokens")]
        answers = (f"at most {calls * max(limits):,} tokens of answers" if any(limits)
                   else "answers of any length")
        return (f"{calls:,} calls to {self.model!r} at {urlsplit(self.base_url).hostname}: about "
                f"{calls * each / self.at_once / 60:.1f} minutes ({each:.1f} s a call, {source}, "
                f"{self.at_once} at once), about {questions:,} tokens of questions and {answers}; "
                f"up to {self.retries} retries a call come on top")

    def ask(self, questions: list[tuple[np.ndarray, int]]) -> Iterator[dict]:
        """Yield a transcript for each picture uint8 (h, w, 3) and repeat, in their order.

        Each transcript is kept as soon as it arrives, so that a second call continues after an
        error. Raises UserError where the endpoint gives no answer, or an error that waiting does
        not cure.
        """
        import openai  # half a second, and only a study with an endpoint needs it

        key = os.environ.get(KEY) or "none"  # a local server needs none, but the client does
        client = openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout,
                               max_retries=self.retries)
        failed = threading.Event()

        def answer(question: tuple[np.ndarray, int]) -> dict | None:
            if failed.is_set():  # an earlier question failed; its error is raised before this None
                return None
            try:
                return self._answer(client, *question)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self.at_once) as pool:
            yield from pool.map(answer, questions)

    def _answer(self, client, picture: np.ndarray, repeat: int) -> dict:
        image, began = crop_cache.digest(picture), time.perf_counter()
        transcript = self._complete(client, picture) | {
            "image": image, "repeat": repeat, "seconds": round(time.perf_counter() - began, 3),
            "base_url": self.base_url, "model": self.model, "prompt": self.prompt,
            "fields": self.fields}
        files.write_json(self.path(image, repeat), transcript)
        return transcript

    def _complete(self, client, picture: np.ndarray) -> dict:
        """Return text, refused and tokens of one call; UserError where it fails for good."""
        import openai

        content = [{"type": "text", "text": self.prompt},
                   {"type": "image_url", "image_url": {"url": data_url(picture)}}]
        try:
            return _read(client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}],
                extra_body=self.fields))
        except openai.APIStatusError as error:
            if error.code in FILTERED:
                return {"text": _without_key(error.message), "refused": True, "tokens": None}
            reason = f"answers {error.status_code}: {error.message}"
        except openai.APIConnectionError as error:  # a time-out is one too
            reason = f"gives no answer: {type(error).__name__} {error.message}"
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
            reason = f"gives no chat completion: {error}"  # ValueError: the body is no JSON
        reason = _without_key(" ".join(reason.split()))[:300]
        raise UserError(f"the endpoint {self.base_url} {reason} (after up to {self.retries} "
                        f"retries, {self.timeout:g} s each); answers so far are kept: fix it and "
                        "run again") from None


def _read(reply) -> dict:
    """Return the content of a chat completion.

    The client does not check replies: AttributeError, IndexError or TypeError where it is none.
    """
    choice = reply.choices[0]
    refusal = getattr(choice.message, "refusal", None)
    refused = bool(refusal) or getattr(choice, "finish_reason", None) in FILTERED
    return {"text": _without_key(str(refusal or choice.message.content or "")), "refused": refused,
            "tokens": getattr(getattr(reply, "usage", None), "total_tokens", None)}


def _without_key(text: str) -> str:
    """Return a text without the key, which a server may repeat, for instance in an error.

    A key of less than eight letters is no secret.
    """
    key = os.environ.get(KEY, "")
    if len(key) < 8:
        return text
    return text.replace(json.dumps(key)[1:-1], "[key]").replace(key, "[key]")


def data_url(picture: np.ndarray) -> str:
    """Return a picture uint8 (h, w, 3) as PNG in a data URL."""
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    return "data:image/png;base64," + base64.b64encode(encoded).decode()
