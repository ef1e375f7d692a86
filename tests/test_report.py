"""Test score files of other detectors: results worked out by hand, spellings, bad rows, files."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest

from dfnb import UserError
from dfnb.evaluation import report
from dfnb.evaluation.score_files import read_scores

BY_HAND = """video_id,label,score
000,0,0.1
001,0,0.6
000_001,1,0.6
001_000,1,0.7
002_003,1,0.9
"""


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a score file and gives its path."""

    def write(text: str, name: str = "scores.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def study_like(seed: int = 0, frames: int = 101) -> pd.DataFrame:
    """Return ten reals and a hundred fakes with FF++ names, `frames` frames each: 11,110 rows."""
    rng = np.random.default_rng(seed)
    names = [f"{place:03d}" for place in range(100)]
    videos = [("real", name, 0) for name in names[:10]]
    videos += [("NeuralTextures", f"{names[at]}_{names[at ^ 1]}", 1) for at in range(100)]
    table = pd.DataFrame(videos, columns=["manipulation", "video", "label"])
    common = np.repeat(rng.normal(size=110) + 1.5 * table["label"], frames).to_numpy()
    table = table.merge(pd.DataFrame({"frame": range(frames)}), how="cross")
    return table.assign(score=1 / (1 + np.exp(-common - rng.normal(size=len(table)))))


def test_a_file_worked_out_by_hand_gives_these_numbers_to_four_digits(written, tmp_path):
    # fakes .6 .7 .9, reals .1 .6: one pair of six is tied, so AUC = 5.5/6;
    # at 0.5: TP 3, FP 1, FN 0, TN 1;
    # at .6 FNR falls from 1/3 to 0 while FPR rises from 0 to 1/2: they meet at 1/5
    found = report.evaluate(written(BY_HAND), tmp_path / "out")
    row = found["table"].query("answer == 'threshold 0.5'").iloc[0]
    expected = {"AUC": 0.9167, "EER": 0.2, "ACC": 0.8, "balanced": 0.75, "HTER": 0.25,
                "F1": 0.8571, "MCC": 0.6124}
    assert {name: round(row[name], 4) for name in expected} == expected
    assert [row[name] for name in ("TP", "FP", "FN", "TN")] == [3, 1, 0, 1]
    constant = found["table"].query("answer == 'always \"fake\"'").iloc[0]
    assert (constant["ACC"], constant["balanced"], constant["AUC"]) == (0.6, 0.5, 0.5)
    assert round(constant["F1"], 4) == 0.75
    counts = found["counts"][["manipulation", "videos", "groups"]].to_numpy().tolist()
    assert counts == [["real", 2, 1], ["fake", 3, 2]]
    intervals = found["intervals"].set_index("kind")
    assert intervals.loc["Newcombe", "primary"] and 0 < intervals.loc["Newcombe", "low"] < 0.9167
    assert "fewer than two identity groups" in intervals.loc["cluster bootstrap", "reason"]


def test_frames_become_videos_and_the_threshold_comes_from_validation(written):
    lines = ["manipulation,video,frame,split,label,probability"]
    lines += ["real,000,0,val,0,0.2", "real,000,1,val,0,0.3", "FaceSwap,000_001,0,val,1,0.4"]
    lines += ["real,002,0,test,0,0.1", "real,002,1,test,0,0.4", "FaceSwap,002_003,0,test,1,0.3"]
    lines += ["FaceSwap,002_003,1,test,1,0.5"]
    scores, _ = read_scores(written("\n".join(lines)))
    table = report.report(scores)["table"].set_index(["unit", "answer"])
    chosen = table.loc[("video", "threshold from validation")]
    assert chosen["threshold"] == pytest.approx(0.325)  # half-way between 0.25 and 0.4
    assert [chosen[name] for name in ("TP", "FP", "FN", "TN")] == [1, 0, 0, 1]  # fake .4, real .25
    assert table.loc[("video", "threshold 0.5"), "TP"] == 0
    frame = table.loc[("frame", "threshold from validation")]
    assert frame["threshold"] == pytest.approx(0.35)
    assert [frame[name] for name in ("TP", "FP", "FN", "TN")] == [1, 1, 1, 1]
    assert frame["AUC"] == 0.75


def test_eleven_thousand_rows_take_under_five_seconds_and_everything_is_written(tmp_path):
    study_like().to_csv(tmp_path / "one.csv", index=False)
    study_like(seed=1).rename(columns={"score": "P-Fake"}).to_csv(tmp_path / "two.csv", index=False)
    start = time.perf_counter()
    found = report.evaluate(tmp_path / "one.csv", tmp_path / "out", other=tmp_path / "two.csv")
    assert time.perf_counter() - start < 5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {f"{name}.csv" for name in report.TABLES}
    assert names == tables | {"report.json", "roc.png", "scores.png"}
    assert (tmp_path / "out" / "roc.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    first = stored["table"][0]
    assert first["unit"] == "frame" and first["TP"] + first["FN"] == 10_100
    assert stored["table"][1]["low"] is None  # what is undefined is null
    counts = found["counts"].set_index("manipulation").loc["NeuralTextures"]
    assert counts[["videos", "groups", "frames"]].tolist() == [100, 50, 10_100]
    text = report.summary(found)
    assert "10 real and 100 fake videos in 50 identity groups" in text
    assert "two models apart" in text
    videos = pd.read_csv(tmp_path / "out" / "videos.csv", dtype={"video": str})
    assert set(videos["video"]) >= {"000", "000_001"}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    study_like(frames=3).to_csv(tmp_path / "one.csv", index=False)
    for folder in ("a", "b"):
        report.evaluate(tmp_path / "one.csv", tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_detector_compared_with_itself_shows_nothing(tmp_path):
    study_like(frames=2).to_csv(tmp_path / "one.csv", index=False)
    found = report.evaluate(tmp_path / "one.csv", tmp_path / "out", other=tmp_path / "one.csv")
    row = found["comparison"].iloc[0]
    assert row["difference"] == 0 and row["p_permutation"] == 1 and math.isnan(row["low"])


@pytest.mark.parametrize("header", ["video,score,label", "Video ID,P_fake,is_fake",
                                    "filename,Probability,ground truth", "clip;pred;y"])
def test_common_spellings_are_found(written, header):
    separator = ";" if ";" in header else ","
    rows = [["007", "0.25", "real"], ["007_008", "0.75", "FAKE"]]
    scores, _ = read_scores(written("\n".join([header, *(separator.join(row) for row in rows)])))
    assert scores["video"].tolist() == ["007", "007_008"]  # leading zeros kept
    assert scores["label"].tolist() == [0, 1] and scores["score"].tolist() == [0.25, 0.75]
    assert scores["group"].nunique() == 1 and scores["manipulation"].tolist() == ["real", "fake"]


def test_columns_can_be_named_and_parquet_is_read_alike(tmp_path):
    table = pd.DataFrame({"video": ["000", "001_000"], "score": ["x", "y"], "mine": [0.2, 0.9],
                          "truth": [0, 1]})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    one, two = (read_scores(tmp_path / name, score="mine", label="truth")[0]
                for name in ("a.csv", "a.parquet"))
    pd.testing.assert_frame_equal(one, two, check_dtype=False)


def test_logits_become_probabilities_only_by_option(written):
    path = written("video,label,score\na,0,-2\nb,1,0\n")
    scores, _ = read_scores(path, logits=True)
    assert scores["score"].tolist() == pytest.approx([1 / (1 + math.exp(2)), 0.5])
    sentence = r"row 1 \(line 2\) has a score outside \[0, 1\]; .*logits.*'-2'"
    with pytest.raises(UserError, match=sentence):
        read_scores(path)


def test_groups_come_from_the_file_else_from_names_else_there_is_a_warning(written):
    own, note = read_scores(written("video,label,score,group\na,0,0.1,g\nb,1,0.2,g\n"))
    assert own["group"].tolist() == ["g", "g"] and "those of the file" in note[1]
    paths = ("video,label,score\noriginal/003.mp4,0,0.1\n"
             "manipulated/FaceSwap/c23/000_003.mp4,1,0.2\n")
    derived, note = read_scores(written(paths))
    assert derived["group"].nunique() == 1 and "FaceForensics++" in note[1]
    assert derived["manipulation"].tolist() == ["real", "FaceSwap"]
    unknown, note = read_scores(written("video,label,score\nalice,0,0.1\nbob,1,0.2\n"))
    assert unknown["group"].nunique() == 2 and "too narrow" in note[1]


GOOD = "video,frame,label,score\na,0,0,0.1\nb,0,1,0.9\n"


@pytest.mark.parametrize(("text", "sentence"), [
    (GOOD + "c,0,1,\n", r"row 3 \(line 4\) has a score that is no number: ''"),
    (GOOD + "c,0,1,NaN\nd,0,1,nan\n", r"row 3 \(line 4\) .* no number: 'NaN' \(and 1 more row\)"),
    (GOOD + "c,0,1,high\n", r"row 3 \(line 4\) .* no number: 'high'"),
    (GOOD + "\nc,0,1,1.5\n", r"row 4 \(line 5\) has a score outside \[0, 1\].*'1.5'"),
    (GOOD + "c,0,1,inf\n", r"row 3 \(line 4\) has an infinite score"),
    (GOOD + "c,0,2,0.5\n",
     r"row 3 \(line 4\) has a label that is none of 0 or real, 1 or fake: '2'"),
    (GOOD + "c,x,1,0.5\n", r"row 3 \(line 4\) has a frame that is no whole number: 'x'"),
    (GOOD + ",0,1,0.5\n", r"row 3 \(line 4\) has no video"),
    (GOOD + "a,0,0,0.5\n", r"row 3 \(line 4\) repeats a frame of a video: 'a'"),
    ("video,manipulation,label,score\na,X,0,0.1\nb,X,1,0.9\na,X,1,0.5\n",
     r"row 3 .* a second label: 'a'"),
    ("video,label,score\na,1,0.1\nb,1,0.9\n",
     r"row 1 \(line 2\) to row 2 \(line 3\), are fake: a ranking"),
    ("video,label,score,split\na,1,0.1,test\nb,0,0.9,exam\n",
     r"row 2 .* none of train, validation, test: 'exam'"),
    ("video,label\na,1\n", "needs a column for score; it has video, label"),
    ("video,label,score\n", "has a header and no rows"),
    ("", "no readable CSV or Parquet table"),
    (GOOD + "c,0,1,0.5,7\n", "no readable CSV.*line 4")])
def test_a_bad_row_is_a_sentence_with_its_number(written, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_scores(written(text))


def test_a_wrong_option_or_a_missing_file_is_a_sentence(written, tmp_path):
    sentence = "no column 'mine' for the score; it has video, frame, label, score"
    with pytest.raises(UserError, match=sentence):
        read_scores(written(GOOD), score="mine")
    with pytest.raises(UserError, match="there is no score file"):
        read_scores(tmp_path / "nothing.csv")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="bad.parquet is no readable"):
        read_scores(tmp_path / "bad.parquet")


def test_a_test_split_of_one_class_gives_reasons_and_does_not_stop_the_report(written, tmp_path):
    text = "video,label,score,split\na,0,0.1,val\nb,1,0.9,val\nc,1,0.4,test\nd,1,0.8,test\n"
    found = report.evaluate(written(text), tmp_path / "out")
    row = found["table"].iloc[0]
    assert (math.isnan(row["AUC"]) and math.isnan(row["low"])
            and row["reason"] == "only fake rows, no real ones")
    assert (row["TP"], row["FN"]) == (1, 1)
    assert any("undefined" in note for note in found["notes"])
    assert not (tmp_path / "out" / "roc.png").exists()


def test_a_file_without_test_rows_and_files_without_common_videos_are_refused(written, tmp_path):
    train = written("video,label,score,split\na,0,0.1,train\nb,1,0.9,train\n")
    with pytest.raises(UserError, match="no rows of the split test, only train"):
        report.evaluate(train, tmp_path / "out")
    one = written("video,label,score\na,0,0.1\nb,1,0.9\n")
    two = written("video,label,score\nc,0,0.1\nd,1,1\n", "2.csv")
    with pytest.raises(UserError, match="no test video in common"):
        report.evaluate(one, tmp_path / "out", other=two)
    with pytest.raises(UserError, match="is a file; the report needs a folder"):
        report.evaluate(one, one)
