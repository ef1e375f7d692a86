"""An OpenAI-compatible vision endpoint: one question about one picture, bounded, kept on disk, without the key."""

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

KEY = "OPENAI_API_KEY"  # the one place that a key is read from
ANSWERS = ("yes", "no", "refusal", "garbage")
IMAGE_TOKENS = 255  # what OpenAI counts for a picture of one tile (85 + 170); others count otherwise
SECONDS = 3.0  # assumed of a call while none has been measured
FILTERED = {"content_filter", "content_policy_violation"}  # a server's refusal that comes as an error

THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)
CHOICE = re.compile(r"^\W*(?:1\W+)?(yes|no)\b(?!\W*(?:or|/)\W*(?:yes|no)\b)", re.IGNORECASE)
UNABLE = re.compile(
    r"\bsorry\b|\bi(?: am|'m)(?: \w+)? (?:unable|not able)\b|\bas an ai\b|"
    r"\bi (?:can't|cannot|can not|won't|will not|must decline)\b"
    r"(?! (?:\w+ )?(?:see|find|detect|spot|observe|notice|discern|identify any)\b)", re.IGNORECASE)


def classify(text: str, *, refused: bool = False) -> tuple[str, str]:
    """One of ANSWERS, and the explanation that follows it.

    An answer begins with the word yes or no, alone or numbered, and says nowhere that its author cannot or will not
    judge: "No, I can't help with that" is a refusal, not a real face. All that is neither is garbage.
    """
    text = THOUGHT.sub("", text).strip()
    if refused or UNABLE.search(text.replace("\u2019", "'")):
        return "refusal", text
    if found := CHOICE.match(text):
        return found[1].lower(), re.sub(r"^2\W\s*", "", text[found.end():].lstrip(" \t\r\n.,:;*-)"))
    return "garbage", text


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask: `fields` are further fields of the request, such as {"max_tokens": 300}.

    `timeout`: seconds without a byte that end an attempt; `retries`: further attempts after a time-out, a lost
    connection, 408, 409, 429 or 5xx, each after a pause that doubles from half a second to eight, with jitter, or that
    the server asks for, up to two minutes; where it asks for more, the call ends (all as the openai client does).
    `at_once`: calls at the same time. Raises UserError where one of them makes no sense.
    """

    base_url: str
    model: str
    prompt: str
    fields: dict = field(default_factory=dict)
    timeout: float = 60.0
    retries: int = 4
    at_once: int = 4

    def __post_init__(self):
        split_table = urlsplit(self.base_url)
        if split_table.username or split_table.password or split_table.query:
            raise UserError(f"base_url must hold no user, password or query; the key goes into ${KEY}")
        if split_table.scheme not in ("http", "https") or not split_table.hostname:
            raise UserError(f"base_url must be such as http://localhost:8000/v1, got {self.base_url!r}")
        for name, least in (("timeout", 0.001), ("retries", 0), ("at_once", 1)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if taken := {"model", "messages", "stream", "n"} & self.fields.keys():
            raise UserError(f"fields must not hold {' or '.join(sorted(taken))}: a call is one question, one answer")
        words = json.dumps([self.base_url, self.model, self.prompt, self.fields])
        if _without_key(words) != words:
            raise UserError(f"the key belongs in ${KEY} alone: it stands in base_url, model, prompt or fields")

    def place(self, image: str, repeat: int) -> Path:
        """The file of a transcript; `image` is the picture's hash."""
        asked = [image, self.base_url, self.model, self.prompt, self.fields, repeat]
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
        return files.cache() / "transcripts" / f"{name}.json"

    def known(self, image: str, repeat: int) -> dict | None:
        """The transcript that is kept, or None."""
        try:
            kept = json.loads(self.place(image, repeat).read_text())
            return kept if {"text", "refused", "seconds"} <= kept.keys() else None
        except (OSError, ValueError, AttributeError):
            return None

    def estimate(self, calls: int, seconds: list[float]) -> str:
        """A sentence: how many calls, how long, how many tokens; `seconds`: what calls before took."""
        each = float(np.mean(seconds)) if seconds else SECONDS
        answer = max([value for name, value in self.fields.items() if name.endswith("tokens")], default=0)
        asked = calls * (IMAGE_TOKENS + len(self.prompt) // 4)  # about four letters a token
        limit = f"at most {calls * answer:,} tokens of answers" if answer else "answers of any length"
        source = "as measured" if seconds else "assumed"
        return (f"{calls:,} calls to {self.model!r} at {urlsplit(self.base_url).hostname}: about "
                f"{calls * each / self.at_once / 60:.1f} minutes ({each:.1f} s a call, {source}, {self.at_once} at once), "
                f"about {asked:,} tokens of questions and {limit}; up to {self.retries} retries a call come on top")

    def ask(self, questions: list[tuple[np.ndarray, int]]) -> Iterator[dict]:
        """Transcripts of (picture uint8 (h, w, 3), repeat), in their order, each kept as soon as it is there.

        Raises UserError where the endpoint answers with an error that waiting does not fix, or not at all; what
        was answered before is kept, so that the same call goes on from there.
        """
        client, broken = self._client(), threading.Event()

        def one(question: tuple[np.ndarray, int]) -> dict | None:
            if broken.is_set():  # the call that broke stands before this one, so that nobody sees the None
                return None
            try:
                return self._ask(client, *question)
            except BaseException:
                broken.set()
                raise

        with ThreadPoolExecutor(self.at_once) as pool:
            yield from pool.map(one, questions)

    def _client(self):
        import openai  # half a second, and only a study with an endpoint needs it

        key = os.environ.get(KEY) or "none"  # servers of one's own ask for none, the client does
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries)

    def _ask(self, client, picture: np.ndarray, repeat: int) -> dict:
        import openai

        image, began = crop_cache.digest(picture), time.perf_counter()
        content = [{"type": "text", "text": self.prompt},
                   {"type": "image_url", "image_url": {"url": data_url(picture)}}]
        try:
            messages = [{"role": "user", "content": content}]
            found = _read(client.chat.completions.create(model=self.model, messages=messages, extra_body=self.fields))
        except openai.APIStatusError as error:
            if error.code not in FILTERED:
                raise UserError(self._told(f"answers {error.status_code}: {error.message}")) from None
            found = {"text": _without_key(str(error.message)), "refused": True, "tokens": None}
        except openai.APIConnectionError as error:  # a time-out is one too
            raise UserError(self._told(f"gives no answer: {type(error).__name__} {error.message}")) from None
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:  # ValueError: no JSON
            raise UserError(self._told(f"gives no chat completion: {error}")) from None
        found |= {"image": image, "repeat": repeat, "seconds": round(time.perf_counter() - began, 3),
                  "base_url": self.base_url, "model": self.model, "prompt": self.prompt, "fields": self.fields}
        files.atomic_write(self.place(image, repeat), json.dumps(found, indent=1) + "\n")
        return found

    def _told(self, what: str) -> str:
        what = _without_key(" ".join(what.split()))[:300]
        return (f"the endpoint {self.base_url} {what} (after up to {self.retries} retries, {self.timeout:g} s each); "
                f"the answers so far are kept: fix it and run again")


def _read(reply) -> dict:
    """What a chat completion says. The client does not check it: AttributeError or so where it is none."""
    choice, usage = reply.choices[0], getattr(reply, "usage", None)
    text, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    refused = bool(refusal) or getattr(choice, "finish_reason", None) in FILTERED
    return {"text": _without_key(str(refusal or text or "")), "refused": refused,
            "tokens": getattr(usage, "total_tokens", None)}


def _without_key(text: str) -> str:
    """A server may repeat the key, in an error for instance. What has less than eight letters is no secret."""
    key = os.environ.get(KEY, "")
    return text.replace(json.dumps(key)[1:-1], "[key]").replace(key, "[key]") if len(key) >= 8 else text


def data_url(picture: np.ndarray) -> str:
    """A picture uint8 (h, w, 3) as PNG in a data URL."""
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    return "data:image/png;base64," + base64.b64encode(encoded).decode()
