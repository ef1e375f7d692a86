"""A multimodal model behind an endpoint: real servers on the loopback, the real client."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import openai
import pandas as pd
import pytest
import torch

from dfnb import UserError, files
from dfnb.data.crops import CropView
from dfnb.detectors import endpoint, multimodal
from dfnb.detectors.multimodal import Multimodal

CLIENT = openai._base_client.BaseClient
PAUSE = CLIENT._calculate_retry_timeout
CLIP = SimpleNamespace(name="tiny", fingerprint="0123", size=64, device=torch.device("cpu"))
SECRET = "sk-loopback-0123456789abcdef"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A separate cache, a key in the environment, no proxy, hardly a pause before a retry."""
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(CLIENT, "_calculate_retry_timeout", lambda *given, **named: 0.01)


@pytest.fixture
def crops() -> CropView:
    """Six crops of noise: two videos of three frames."""
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3)).astype(np.uint8)
    rows = pd.DataFrame({"corpus": "noise", "manipulation": np.repeat(["real", "fake"], 3),
                         "video": np.repeat(["<0>", "<1>"], 3), "label": np.repeat([0, 1], 3),
                         "frame": [0, 1, 2] * 2})
    return CropView.of_arrays(images, rows)


def completion(text: str | None, *, refusal: str | None = None, reason: str = "stop") -> dict:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "usage": {"total_tokens": 9}, "choices": [choice]}


def error(message: str, **more) -> dict:
    return {"error": {"message": message} | more}


@pytest.fixture
def server():
    """A server that answers request after request with the next of `script`, the last one for ever.

    An entry is a text, (status, body), (status, body, headers) or seconds to wait before "yes".
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append({"body": body, "headers": self.headers, "path": self.path,
                                    "at": time.monotonic()})
            entry = served.script.pop(0) if len(served.script) > 1 else served.script[0]
            if isinstance(entry, float):
                time.sleep(entry)
                entry = "yes"
            status, answer, *more = (200, completion(entry)) if isinstance(entry, str) else entry
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            described = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
            for name, value in (described | dict(*more)).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has hung up: a time-out
                self.wfile.write(raw)

        def log_message(self, *given):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.requests, served.script = [], ["yes"]
    served.url = f"http://127.0.0.1:{served.server_port}/v1"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def fit(server, **options):
    asked = {"clip": CLIP, "base_url": server.url, "model": "m", "repeats": 1, "at_once": 1,
             "retries": 2, "timeout": 5.0}
    return Multimodal.fit(None, None, seed=0, **asked | options)


def last_line(capsys) -> str:
    return capsys.readouterr().out.splitlines()[-1]


# --- what an answer means
REFUSALS = ["No, I can\u2019t help with that.", "As an AI, I do not judge faces.",
            "I'm sorry, but I can't assist with that request."]
GARBAGE = ["Yes or no", "yes/no", "Yesterday", "The face looks real.", ""]


@pytest.mark.parametrize(("text", "answer", "explanation"), [
    ("yes", "yes", ""), ("No.", "no", ""), ("**1. No**", "no", ""),
    ("1) Yes\n2) [eyes, blurred edges]", "yes", "[eyes, blurred edges]"),
    ("No, I cannot see any artifacts.", "no", "I cannot see any artifacts."),
    ("<think>no, no ... </think>Yes. The mouth.", "yes", "The mouth."),
    *((text, "refusal", text) for text in REFUSALS),
    *((text, "garbage", text) for text in GARBAGE)])
def test_an_answer_is_read_strictly(text, answer, explanation):
    assert endpoint.classify(text) == (answer, explanation)
    assert endpoint.classify(text, refused=True)[0] == "refusal"  # as the server says


# --- scores
def test_a_score_is_the_share_of_yes_among_the_answered(server, crops, capsys):
    sorry = "I'm sorry, I can't"
    server.script = ["yes", "no", sorry, "hm", *["no"] * 4, "", "I cannot judge", "hm", sorry]
    detector = fit(server, repeats=4, frames=1)
    scores = detector.score(crops)  # the middle frame of each video
    assert scores.dtype == np.float32 and np.isnan(scores[[0, 2, 3, 5]]).all()
    assert scores[1] == 0.5 and scores[4] == 0
    assert last_line(capsys) == ("8 answers: 1 yes, 5 no, 1 refusal, 1 garbage; 0 of 2 crops "
                                 "without an answer have no score")
    detector = fit(server, repeats=4, model="other")
    assert np.isnan(detector.score(crops.select([0]))).all()  # never real, never one half
    assert last_line(capsys) == ("4 answers: 0 yes, 0 no, 2 refusal, 2 garbage; 1 of 1 crops "
                                 "without an answer have no score")


def test_a_question_holds_the_prompt_and_the_very_pixels(server, crops):
    fit(server, fields={"max_tokens": 7}).score(crops.select([4]))
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {SECRET}"
    assert request["body"]["model"] == "m" and request["body"]["max_tokens"] == 7
    text, picture = request["body"]["messages"][0]["content"]
    assert text["text"] == multimodal.PROMPT
    assert text["text"].startswith("Tell me if there are synthesis artifacts")
    encoded = picture["image_url"]["url"].removeprefix("data:image/png;base64,")
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels[..., ::-1], crops.images([4])[0])


@pytest.mark.parametrize(("frames", "rows"), [
    (1, [1, 4]), (2, [0, 2, 3, 5]), (3, range(6)), (9, range(6))])
def test_frames_asked_about_are_spread_over_a_video(server, crops, frames, rows):
    asked = fit(server, frames=frames).transcripts(crops)
    assert asked.row.tolist() == list(rows)
    assert asked.frame.tolist() == [row % 3 for row in rows]


# --- faults
@pytest.mark.parametrize("fault", [
    (429, error("slow down")), (500, error("oops")), (503, b"down"), 1.0])
def test_a_passing_fault_is_tried_again(server, crops, fault):
    server.script = [fault, fault, "yes"]
    assert fit(server, timeout=0.3).score(crops.select([0])) == [1.0]
    assert len(server.requests) == 3


def test_pauses_before_a_retry_grow_and_are_bounded(server, crops, monkeypatch):
    monkeypatch.setattr(CLIENT, "_calculate_retry_timeout", PAUSE)
    server.script = [(429, {}), (503, {}), "yes"]
    assert fit(server).score(crops.select([0])) == [1.0]
    first, second = np.diff([request["at"] for request in server.requests])
    # half a second, one second, less a quarter at most
    assert 0.37 < first < 4 and 0.74 < second < 4
    server.script = [(429, {}, {"Retry-After": "3600"})]
    with pytest.raises(UserError, match="answers 429"):  # at once: nobody waits for an hour
        fit(server).score(crops.select([1]))
    assert len(server.requests) == 4


def test_several_questions_at_once(server, crops):
    server.script = [0.02]
    detector = fit(server, at_once=4, frames=3, repeats=2)
    assert detector.score(crops).tolist() == [1.0] * 6 and detector.calls == 12
    assert len(server.requests) == len(list(files.cache().rglob("*.json"))) == 12


@pytest.mark.parametrize(("fault", "calls", "message"), [
    ((429, error("slow down")), 3, "answers 429: .*slow down.*after up to 2 retries.*run again"),
    ((502, b"bad gateway"), 3, "answers 502"),
    (1.0, 3, "gives no answer: APITimeoutError"),
    ((401, error(f"no such key: {SECRET}")), 1, r"answers 401: .*no such key: \[key\]"),
    ((404, error("no such model")), 1, "answers 404"),
    *(((200, body), 1, "gives no chat completion") for body in (
        b"<html>log in</html>", {"object": "error"}, {"choices": []},
        {"choices": [{"message": None}]}))])
def test_a_lasting_fault_ends_it_with_a_sentence(server, crops, fault, calls, message):
    server.script = ["yes", fault]
    with pytest.raises(UserError, match=message):
        fit(server, frames=3, timeout=0.3).score(crops)
    assert len(server.requests) == 1 + calls
    server.script = ["no"]
    scores = fit(server, frames=3, timeout=0.3).score(crops)
    assert scores.tolist() == [1, 0, 0, 0, 0, 0]  # the first answer was kept
    assert len(server.requests) == 1 + calls + 5


@pytest.mark.parametrize("refusal", [
    (400, error("a face", code="content_filter")),
    (200, completion(None, refusal="I will not")),
    (200, completion("no", reason="content_filter"))])
def test_a_filtered_question_is_a_refusal(server, crops, refusal):
    server.script = [refusal]
    asked = fit(server).transcripts(crops.select([0]))
    assert asked.answer.tolist() == ["refusal"] and len(server.requests) == 1


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_nobody_listens(crops, server):
    with pytest.raises(UserError, match="gives no answer: APIConnectionError"):
        fit(server, base_url=f"http://127.0.0.1:{free_port()}/v1").score(crops)


# --- transcripts
def test_a_second_run_makes_no_call(server, crops, capsys):
    server.script = ["yes: [mouth, blurred]", "no", "hm"]
    first = fit(server, repeats=3).transcripts(crops)
    assert first.answer.tolist()[:3] == ["yes", "no", "garbage"]
    assert first.explanation[0] == "[mouth, blurred]"
    capsys.readouterr()
    again = fit(server, repeats=3, timeout=9.0)
    pd.testing.assert_frame_equal(again.transcripts(crops), first)
    assert capsys.readouterr().out == ""
    again.transcripts(crops.select([4, 1]))  # the same pictures, wherever they stand
    assert len(server.requests) == 6
    for calls, other in enumerate(({"model": "m2"}, {"prompt": "fake?"}, {"fields": {}}), start=2):
        fit(server, repeats=3, **other).transcripts(crops)
        assert len(server.requests) == 6 * calls
    fit(server, repeats=5).transcripts(crops)  # two more of each
    assert len(server.requests) == 6 * 4 + 4


def test_a_damaged_transcript_is_asked_for_again(server, crops):
    fit(server).transcripts(crops.select([0]))
    (kept,) = files.cache().rglob("*.json")
    kept.write_text(kept.read_text()[:40])
    server.script = ["no"]
    assert fit(server).score(crops.select([0])) == [0.0]
    assert len(server.requests) == 2


def test_equal_pictures_are_one_question(server, crops):
    asked = fit(server, frames=3).transcripts(crops.select([0, 0, 0]))
    assert len(asked) == 3 and len(server.requests) == 1


def test_the_explanation_is_escaped_where_it_is_shown(server, crops):
    server.script = ["yes <script>alert(1)</script>"]
    page = multimodal.page(crops, fit(server).transcripts(crops))
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "real &lt;0&gt;, frame 1" in page
    assert page.count('src="data:image/png;base64,') == 2


# --- costs, the key, the card
def test_the_number_of_calls_is_printed_before_and_bounded(server, crops, capsys):
    detector = fit(server, repeats=3, most_calls=6, fields={"max_tokens": 100})
    detector.transcripts(crops)
    tokens = 6 * (255 + len(multimodal.PROMPT) // 4)
    assert capsys.readouterr().out.splitlines() == [
        "6 calls to 'm' at 127.0.0.1: about 0.3 minutes (3.0 s a call, assumed, 1 at once), "
        f"about {tokens:,} tokens of questions and at most 600 tokens of answers; up to 2 retries "
        "a call come on top"]
    message = "most_calls is 6, this would be 3 calls .* after 6 before; raise it, or ask"
    with pytest.raises(UserError, match=message):
        detector.transcripts(crops.select([0]))
    with pytest.raises(UserError, match="most_calls is 5, this would be 30 calls"):
        fit(server, repeats=5, most_calls=5, frames=3, model="x").score(crops)
    assert len(server.requests) == 6


def test_the_key_is_written_nowhere(server, crops, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    server.script = [f"yes, your key is {SECRET}",
                     (400, error(f"{SECRET} filtered", code="content_filter")),
                     (403, error(f"{SECRET} is not allowed"))]
    detector = fit(server, repeats=3, frames=3)
    with pytest.raises(UserError) as raised:
        detector.score(crops)
    sent = [request["headers"]["Authorization"] for request in server.requests]
    assert len(sent) == 3 and all(SECRET in header for header in sent)
    detector.save(tmp_path / "saved")
    written = [path.read_bytes().decode() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 3  # two transcripts and the card
    assert "your key is [key]" in "".join(written)
    printed = [*capfd.readouterr(), caplog.text, str(raised.value), repr(vars(detector))]
    assert not any(SECRET in text for text in [*printed, *written])


@pytest.mark.parametrize(("options", "message"), [
    ({"base_url": f"http://127.0.0.1/{SECRET}"}, "the key belongs in .OPENAI_API_KEY alone"),
    ({"fields": {"user": SECRET}}, "the key belongs in .OPENAI_API_KEY alone"),
    *(({"base_url": url}, "base_url must hold no user, password or query") for url in (
        "http://me:secret@127.0.0.1/v1", "http://127.0.0.1/v1?api-key=secret")),
    ({"base_url": "localhost:8000"},
     "base_url must look like http://localhost:8000/v1, got 'localhost:8000'"),
    ({"fields": {"n": 3}}, "fields must not hold n"),
    ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ({"most_calls": 0}, "most_calls must be at least 1, got 0"),
    ({"timeout": 0.0}, "timeout must be at least 0.001, got 0.0"),
    ({"retries": -1}, "retries must be at least 0, got -1"),
    ({"base_url": None},
     "multimodal was not run: it lacks base_url of an OpenAI-compatible endpoint"),
    ({"base_url": "", "model": None}, "multimodal was not run: it lacks base_url and model")])
def test_senseless_options_are_refused(server, options, message):
    with pytest.raises(UserError, match=message) as raised:
        fit(server, **options)
    assert "secret" not in str(raised.value) and SECRET not in str(raised.value)


def test_without_an_endpoint_it_says_that_it_was_not_run():
    with pytest.raises(multimodal.NoEndpoint, match="was not run: it lacks base_url and model"):
        Multimodal.fit(None, None, clip=CLIP, seed=0)


def test_a_loaded_detector_asks_the_same(server, crops, tmp_path, clip):
    detector = fit(server, repeats=2, clip=clip)
    scores = detector.score(crops)
    detector.save(tmp_path / "saved")
    loaded = Multimodal.load(tmp_path / "saved", clip)
    np.testing.assert_array_equal(loaded.score(crops), scores)
    assert len(server.requests) == 4


# --- a model that sees and speaks
def tiny_model(folder) -> None:
    """Save a random Llava that knows the words yes, no and eyes, and answers by chance."""
    import tokenizers
    import transformers

    words = ["<pad>", "<s>", "</s>", "<image>", ".", "yes", "no", "eyes"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="."))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(words[:4])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "."}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}")
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(**sides), tokenizer=tokenizer,
        patch_size=8, vision_feature_select_strategy="default", chat_template=template,
        image_token="<image>", num_additional_image_tokens=1).save_pretrained(folder)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32,
             "intermediate_size": 64}
    text = transformers.LlamaConfig(**shape, vocab_size=len(words), pad_token_id=0, bos_token_id=1,
                                    eos_token_id=2)
    vision = transformers.CLIPVisionConfig(**shape, image_size=32, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
    model.generation_config.suppress_tokens = [0, 1, 3]
    model.generation_config.do_sample = True
    model.save_pretrained(folder)


@pytest.mark.slow
def test_a_real_server_with_a_real_vision_language_model(tmp_path, crops):
    pytest.importorskip("fastapi",
                        reason="`transformers serve` needs fastapi and uvicorn (the extra dev)")
    model, port = str(tmp_path / "model"), str(free_port())
    tiny_model(model)
    start = [sys.executable, "-c", "from transformers.cli.transformers import main; main()",
             "serve", model, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(start, stdout=log, stderr=log,
                                   env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        options = {"base_url": f"http://127.0.0.1:{port}/v1", "model": model, "repeats": 6,
                   "frames": 3, "fields": {"max_tokens": 3}}
        detector = Multimodal.fit(None, None, clip=CLIP, **options)
        asked, scores = detector.transcripts(crops), detector.score(crops)
    finally:
        process.terminate()
        process.wait()
    # by chance, and at random each time
    assert len(asked) == 36 and {"yes", "no", "garbage"} == set(asked.answer)
    answered = asked[asked.answer.isin(["yes", "no"])]
    expected = [answered.answer[answered.row == row].eq("yes").mean() for row in range(6)]
    np.testing.assert_allclose(scores, expected)
    again = Multimodal.fit(None, None, clip=CLIP, **options).score(crops)  # nobody listens any more
    np.testing.assert_array_equal(again, scores)


def wait_for(url: str, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")
