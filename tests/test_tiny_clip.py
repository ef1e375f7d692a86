"""The tiny CLIP: captions, tokenizer, start, loss, training, what is written."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers import CLIPImageProcessorPil as CLIPImageProcessor

from dfnb.demo import motion, people
from tools.tiny_clip import evaluate_clip, portraits, pretrain, tiny_clip, views, vocabulary
from tools.tiny_clip.vocabulary import FIELDS


@pytest.fixture(scope="module")
def words():
    return vocabulary.tokenizer()


def drawn(rng, count: int, fields: int = len(FIELDS)) -> np.ndarray:
    """Return random codes (count, fields)."""
    sizes = [len(choices) for choices in FIELDS.values()][:fields]
    return np.stack([rng.integers(size, size=count) for size in sizes], axis=1)


@pytest.fixture(scope="module")
def crops() -> portraits.Portraits:
    """Eight people of two frames each: random pictures with random codes."""
    rng = np.random.default_rng(0)
    codes = drawn(rng, 16, len(FIELDS) - 1)
    images = rng.integers(0, 256, (16, 72, 72, 3), dtype=np.uint8)
    return portraits.Portraits(images, codes.astype(np.int8), np.zeros((16, 3), np.float32),
                               np.repeat(np.arange(8), 2))


@pytest.fixture
def train(crops, words):
    """A function that prepares a training on `crops`, of three steps unless others are given."""
    def prepare(kept=crops, **changes) -> pretrain.Training:
        schedule = pretrain.Schedule(**dict(steps=3, batch=8, warmup=2) | changes)
        return pretrain.Training(schedule, kept, words)

    return prepare


def same(*trainings: pretrain.Training) -> bool:
    one, other = (training.model.visual_projection.weight for training in trainings)
    return torch.equal(one, other)


def test_a_full_description_is_the_caption_of_people():
    said = np.array([[True] * (len(FIELDS) - 1) + [False]])
    for id in range(20):
        person = people.person(5, id)
        pose = motion.Pose(mouth=0.1, smile=0.9 * (id % 2), gaze_x=0.7 * (id % 3 - 1))
        codes = np.array([[*portraits._codes(person, pose), 0]])
        expected = people.caption(person, motion.expression(pose), motion.gaze(pose))
        assert vocabulary.write(codes, said) == [expected]


def test_captions_differ_when_any_one_field_differs():
    for column, choices in enumerate(FIELDS.values()):
        codes = np.zeros((len(choices), len(FIELDS)), int)
        codes[:, column] = np.arange(len(choices))
        assert len(set(vocabulary.write(codes, np.ones_like(codes, bool)))) == len(choices)


def test_the_tokenizer_spells_every_caption_without_unknowns_and_reads_it_back(words):
    rng = np.random.default_rng(1)
    captions = vocabulary.write(drawn(rng, 300), vocabulary.choose_said(300, rng))
    for caption in [*captions, "Ein Café, 1999: no such word!"]:
        tokens = words(caption)["input_ids"]
        assert tokens[0] == words.bos_token_id and tokens[-1] == words.eos_token_id
        assert words.unk_token_id not in tokens and len(tokens) <= tiny_clip.WORDS
        read = words.decode(tokens, skip_special_tokens=True)
        assert read.replace(" ", "") == caption.lower().replace("é", "e").replace(" ", "")


def test_a_caption_fits_the_images_for_which_all_it_says_is_true():
    codes = np.zeros((3, len(FIELDS)), int)
    codes[1, 0] = 1  # another age
    codes[2, 4] = 1  # glasses
    said = np.zeros((3, len(FIELDS)), bool)
    said[0, 0] = said[1, :] = said[2, 4] = True
    expected = [[True, False, False], [False, True, False], [True, False, True]]  # (image, caption)
    assert vocabulary.fits(codes, said).tolist() == expected


def test_the_loss_is_that_of_clip_when_each_caption_fits_one_image():
    image, text = (torch.nn.functional.normalize(torch.randn(5, 7), dim=-1) for _ in range(2))
    logits = image @ text.T * 3.0
    expected = sum(
        torch.nn.functional.cross_entropy(each, torch.arange(5)) for each in (logits, logits.T)) / 2
    fits = torch.eye(5, dtype=torch.bool)
    loss = tiny_clip.contrastive(image, text, torch.tensor(3.0).log(), fits)
    torch.testing.assert_close(loss, expected)


def test_the_first_filters_see_every_frequency_at_unit_variance(crops):
    images = crops.images[:, 4:68, 4:68]
    filters = torch.from_numpy(tiny_clip.whitened_patches(images))
    seen = torch.nn.functional.conv2d(tiny_clip.pixels(images), filters, stride=8)
    spread = seen.transpose(0, 1).flatten(1).std(dim=1)
    assert torch.linalg.matrix_rank(filters.flatten(1)) == 192
    torch.testing.assert_close(spread, torch.ones(192), atol=0.02, rtol=0)


def test_a_mirrored_crop_looks_the_other_way(crops):
    gaze = list(FIELDS).index("gaze")
    images, codes, angles = crops.images.copy(), crops.codes.copy(), np.ones((16, 3), np.float32)
    images, codes, angles = views._mirror(images, codes, angles, np.arange(16) < 8)
    assert (images[0] == crops.images[0, :, ::-1]).all() and (images[8:] == crops.images[8:]).all()
    swapped = {"left": "right", "right": "left", "ahead": "ahead"}
    names = [FIELDS["gaze"][code] for code in codes[:8, gaze]]
    assert names == [swapped[FIELDS["gaze"][code]] for code in crops.codes[:8, gaze]]
    assert angles[0].tolist() == [-1, 1, -1] and angles[8].tolist() == [1, 1, 1]


def test_blur_takes_fine_detail_away_and_noise_adds_it():
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (64, 64, 3))
    image = np.where(np.arange(64)[None, :, None] % 8 < 4, ramp, 128).astype(np.uint8)
    after = {}
    for code, name in enumerate(FIELDS["quality"]):
        after[name], amounts = views.degrade(image, code, np.random.default_rng(0))
        assert (amounts > 0).sum() == (name != "sharp")
    down = {name: np.abs(np.diff(each.astype(float), n=2, axis=0)) for name, each in after.items()}
    across = {name: np.abs(np.diff(each.astype(float), axis=1)) for name, each in after.items()}
    assert (after["sharp"] == image).all()
    assert down["noisy"].mean() > down["sharp"].mean()
    assert across["blurry"].mean() < across["sharp"].mean()


def test_portraits_are_rendered_once_and_the_same_in_any_portion(tmp_path):
    both = portraits.portraits(7, range(2), 2, workers=1, folder=tmp_path)
    one = portraits.portraits(7, range(1, 2), 2, workers=1, folder=tmp_path)
    assert both.images.shape == (4, 72, 72, 3) and both.ids.tolist() == [0, 0, 1, 1]
    assert (both.images[2:] == one.images).all() and (both.codes[2:] == one.codes).all()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    portraits.portraits(7, range(2), 2, workers=1, folder=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


def test_training_twice_gives_the_same_weights_and_another_seed_others(train, tmp_path):
    first, again, other = (train(seed=seed) for seed in (0, 0, 1))
    for training in (first, again, other):
        training.run(tmp_path / "state.pt")
    assert same(first, again) and not same(first, other)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(train, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SAVED_EVERY", 0)
    whole, stopped, resumed = train(), train(), train()
    whole.run(tmp_path / "none.pt")
    advance = stopped.advance
    monkeypatch.setattr(stopped, "advance", lambda: advance() if stopped.step < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stopped.run(tmp_path / "state.pt")
    resumed.run(tmp_path / "state.pt")
    assert resumed.step == 3 and len(resumed.losses) == 3 and same(resumed, whole)


def test_the_loss_falls_on_a_few_crops(train, crops, tmp_path):
    rows = np.array([0, 2, 4, 6])
    few = portraits.Portraits(crops.images[rows], crops.codes[rows], crops.angles[rows],
                              crops.ids[rows])
    training = train(few, steps=25, warmup=5, lr=1e-3)
    training.run(tmp_path / "state.pt")
    losses = [each["named"] + each["measured"] for each in training.losses]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_steps_follow_from_the_pace_of_the_warm_up_and_repeat_the_training(
        train, tmp_path, monkeypatch):
    clock = itertools.count()  # each look at the clock is a second later, so a step takes one
    monkeypatch.setattr(pretrain.time, "perf_counter", lambda: next(clock))
    timed, counted = train(steps=None, minutes=0.1), train(steps=6)
    for training in (timed, counted):
        training.run(tmp_path / "state.pt")
    assert timed.step == timed.steps == 6 and same(timed, counted)
    assert timed.schedule.rate(0, None) == pytest.approx(timed.schedule.lr / 2)
    assert timed.schedule.rate(6, 6) == pytest.approx(0)


def test_the_card_names_the_command_that_repeats_the_training():
    options = pretrain.parse(["--minutes", "3", "--seed=5", "--out", "elsewhere"])
    assert pretrain.again(options, 70) == "python -m tools.tiny_clip.pretrain --steps 70 --seed 5"


def test_balanced_accuracy_is_the_mean_recall_and_persons_are_resampled_whole():
    truth, answer = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    measured = evaluate_clip.balanced_accuracy(truth, answer, np.arange(4), 2)
    assert (measured["balanced"], measured["majority_balanced"]) == (0.5, 0.5)
    assert (measured["accuracy"], measured["majority_accuracy"]) == (0.75, 0.75)
    rng = np.random.default_rng(0)
    truth, hit = np.tile([0, 1], 200), np.repeat(rng.random(100) < 0.7, 4)
    answer = np.where(hit, truth, 1 - truth)
    grouped = evaluate_clip.balanced_accuracy(truth, answer, np.repeat(np.arange(100), 4), 2)
    alone = evaluate_clip.balanced_accuracy(truth, answer, np.arange(400), 2)
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


def test_the_written_folder_loads_like_a_hub_checkpoint(train, crops, words, tmp_path):
    training, folder = train(), tmp_path / "clip"
    training.losses.append(training.advance())
    facts = dict(command="c", world=1, people=8, frames=2, steps=1, minutes=0.1, threads=1,
                 schedule={"batch": 8, "lr": 1e-3}, **training.recent())
    found = evaluate_clip.publish(training.model, words, crops, facts, folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    model = CLIPModel.from_pretrained(folder)
    assert model.dtype == CLIPModel(CLIPConfig.from_pretrained(folder)).dtype == torch.float32
    prompts, image = vocabulary.prompts("glasses"), crops.images[0, 4:68, 4:68]
    tokens = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    assert tokens["input_ids"].tolist() == words(prompts, padding=True)["input_ids"]
    processor = CLIPImageProcessor.from_pretrained(folder)
    processed = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, tiny_clip.pixels(image[None]))
    whole = model.eval()(input_ids=tokens["input_ids"], pixel_values=processed,
                         attention_mask=tokens["attention_mask"])
    texts = evaluate_clip.text_vectors(model, words, prompts)
    images = evaluate_clip.image_vectors(model, image[None])
    np.testing.assert_allclose(whole.text_embeds.detach(), texts, atol=1e-5)
    np.testing.assert_allclose(whole.image_embeds.detach(), images, atol=1e-5)
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept == found and set(kept["zero_shot"]) == set(FIELDS)
    assert f"{kept['retrieval']['top5']:.2f}" in (folder / "README.md").read_text()
