"""Profiles: what is in params/ is valid, and every mistake is one sentence that names file and
key.
"""

import dataclasses
from typing import get_args

import pytest

from dfnb import UserError, config, files
from dfnb.data import layouts, video

GOOD = """
corpus: {root: /videos, compression: c40, manipulations: [Deepfakes], videos_per_class: null}
crops: {frames: 8, size: 224}
clip: openai/clip-vit-base-patch32
notebooks:
  03_lora_training: {rank: 16, dropout: 0.1, note: text, fast: true}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_PARAMS", str(tmp_path))
    return lambda text, name="mine": (tmp_path / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize("name", config.names())
def test_the_profiles_of_the_repository_are_valid(name):
    assert config.load(name).name == name


def test_the_demo_has_the_size_of_the_study():
    demo = config.load("demo")
    assert (demo.demo.identities, demo.corpus.videos_per_class) == (100, 100)
    assert demo.crops.frames >= 8


def test_values_keep_their_types(write):
    write(GOOD)
    profile = config.load("mine")
    assert profile.notebooks["03_lora_training"] == {
        "rank": 16, "dropout": 0.1, "note": "text", "fast": True}
    assert type(profile.notebooks["03_lora_training"]["fast"]) is bool
    assert profile.corpus.videos_per_class is None
    assert profile.crops.margin == 1.3


def test_a_corpus_lies_where_its_root_says(write, tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_DATA", str(tmp_path / "data"))
    write(GOOD)
    assert str(config.load("mine").folder) == "/videos"
    write(GOOD.replace("/videos", "data/ffpp"))
    assert config.load("mine").folder == files.ROOT / "data" / "ffpp"
    write(GOOD.replace("/videos", "demo") + "demo: {seed: 1, identities: 4, frames: 8}")
    assert config.load("mine").folder == tmp_path / "data" / "mine"


@pytest.mark.parametrize("name",
                         ["nope", "", "../smoke", "/etc/passwd", "smoke.yaml", "SMOKE", "smoke\n"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"there is no profile .*demo, .*smoke"):
        config.load(name)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [("c40", "c30", r"params/mine.yaml: corpus.compression is 'c30', but .* 'raw', 'c23' or 'c40'"),
     ("frames: 8", "frames: 0",
      r"params/mine.yaml: crops.frames is 0, but .* greater than or equal to 1"),
     ("frames: 8", "frames: eight", r"crops.frames is 'eight', but .* valid integer"),
     ("frames: 8", "frames: true", r"crops.frames is True, but .* valid integer"),
     ("frames: 8", "frame: 8",
      r"(there is no setting crops.frame;|the setting crops.frames is missing)"),
     ("[Deepfakes]", "['../x']", r"corpus.manipulations.0 is '../x'"),
     ("[Deepfakes]", "[]", r"corpus.manipulations is \[\], but .* at least 1 item"),
     ("{rank: 16,", "{rank: [1],", r"notebooks.03_lora_training.rank is \[1\]"),
     ("03_lora_training", "../03", r"notebooks.../03"),
     ("clip:", "klip:", r"there is no setting klip; remove it or correct its name"),
     ("videos_per_class: null", "videos: {Deepfakes: 0}",
      r"corpus.videos.Deepfakes is 0, but .* greater than or equal"),
     ("/videos", "demo", r'a section "demo" and corpus.root "demo" go together'),
     ("/videos,", "/videos, layout: kaggle,",
      r"corpus.layout is 'kaggle', but .* 'ffpp', 'ffpp-flat', 'celeb-df'"),
     (GOOD, "[1, 2]", r"must hold the sections corpus and crops, not \[1, 2\]"),
     (GOOD, "a: [", r"params/mine.yaml is no readable YAML"),
     (GOOD, "[" * 5000, r"params/mine.yaml is no readable YAML"),
     (GOOD, "when: 2026-99-99", r"params/mine.yaml is no readable YAML"),
     (GOOD, "!!python/object/apply:os.system [touch hacked]",
      r"params/mine.yaml is no readable YAML"),
     ("clip:", "name: ../../evil\nclip:",
      r"there is no setting name; a profile is called as its file is"),
     ("clip:", "1: x\nclip:", r"params/mine.yaml"),
     ("{rank: 16,", "{1: 16,", r"params/mine.yaml: notebooks.03_lora_training.1"),
     ("clip:", "__import__('os').system('touch hacked'): 1\nclip:",
      r"there is no setting __import__\('os'\)"),
     ("clip:", "sweeps: {../x: {notebook: 03_lora_training, seeds: [1]}}\nclip:", r"sweeps.\.\./x"),
     ("size: 224", "size: 224, limits: {frames: 0}",
      r"crops.limits.frames is 0, but .* greater than or equal to 1"),
     ("size: 224", "size: 224, limits: {colour: 1}", r"crops.limits.colour"),
     ("size: 224", "size: 224, most_lost: 1.5", r"crops.most_lost is 1.5, but .* less than 1"),])
def test_a_mistake_is_one_sentence_with_file_and_key(write, old, new, sentence):
    write(GOOD.replace(old, new))
    with pytest.raises(UserError, match=sentence) as caught:
        config.load("mine")
    assert "\n" not in str(caught.value)


def test_layout_lists_and_test_corpora_are_settings_and_a_new_test_corpus_concerns_no_chapter(
        write):
    write(
        GOOD.replace("root: /videos",
                     "root: /videos, layout: ffpp-flat, lists: my lists, identities: /who.csv"))
    profile = config.load("mine")
    assert profile.corpus.index == {
        "layout": "ffpp-flat", "compression": "c40", "manipulations": ["Deepfakes"],
        "videos_per_class": None, "videos": {}}
    assert [str(path)
            for path in profile.corpus.known] == [str(files.ROOT / "my lists"), "/who.csv"]
    write(GOOD + "test_corpora: [{root: data/celeb, layout: celeb-df}]")
    other = config.load("mine").test_corpora[0]
    assert other.folder == files.ROOT / "data" / "celeb"
    assert other.index == {
        "layout": "celeb-df", "compression": "c23", "manipulations": None, "videos_per_class": None}
    assert "test_corpora" not in config.load("mine").settings


def test_the_layouts_of_a_profile_are_those_that_can_be_read():
    assert set(get_args(config.Layout)) == set(layouts.LAYOUTS)


@pytest.mark.parametrize(("name", "per_block", "blocks"), [("ffpp-study", 4 * 768, 8),
                                                           ("ffpp", 4 * 1024, 6)])
def test_the_profiles_of_faceforensics_adapt_as_many_values_as_the_study_reports(
        name, per_block, blocks):
    lora = config.load(name).notebooks["03_lora_training"]
    assert lora["blocks"] == blocks
    assert per_block * blocks == 24_576  # times r = 8: 0.20 M


def test_limits_of_a_profile_are_those_of_a_video(write):
    write(GOOD.replace("size: 224", "size: 224, limits: {timeout: 900, frames: 90000}"))
    given = config.load("mine").crops.limits
    assert (video.Limits(**given).timeout, video.Limits(**given).frames) == (900, 90000)
    assert set(get_args(config.Limit)) == {field.name for field in dataclasses.fields(video.Limits)}


def test_more_crops_than_frames_is_a_mistake(write):
    write(GOOD.replace("/videos", "demo") + "demo: {seed: 1, identities: 4, frames: 6}")
    with pytest.raises(UserError, match="crops.frames must be at most demo.frames = 6, got 8"):
        config.load("mine")
