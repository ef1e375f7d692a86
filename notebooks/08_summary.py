# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Summary: probe and LoRA
#
# **Question** What does the whole study show when probe and LoRA stand side by side, with the
# constant answer and the reported rows?

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import config
from dfnb.data import splits
from dfnb.evaluation import cross_fitting, metrics, plots, power, published, tables
from dfnb.evaluation.intervals import Bootstrap
from dfnb.experiment import across
from dfnb.runs import results
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
confidence = 0.95  # confidence level of the intervals
draws = 2000  # bootstrap and permutation draws

# %%
plots.style()
run = start("08_summary", config.load(profile), globals())
results = [results.result(profile, name) for name in ("02_baseline_probe", "03_lora_training")]
bootstrap = Bootstrap(confidence, draws)
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# Nothing is trained here. This chapter reads the frame scores that chapters 2 and 3 saved; the
# table counts what each was measured on.

# %%
probe, lora = "linear probe", "LoRA"
crossed = pd.concat([result.table("crossed") for result in results], ignore_index=True)
scores = pd.concat([result.scores for result in results], ignore_index=True)
protocol, unseen, seen = (results[0].parameters[name]
                          for name in ("protocol", "test_on", "train_on"))
counted = dict(videos=("video", "nunique"), groups=("group", "nunique"),
               frames=("frame", "size"))
parts = {"cross": cross_fitting.first(crossed) if len(crossed) else crossed,
         splits.mark(protocol): scores[scores.split == "test"]}
pd.concat({name: rows.groupby(["model", "manipulation"], sort=False).agg(**counted)
           for name, rows in parts.items() if len(rows)}, names=["protocol"])

# %% [markdown]
# ## Method
#
# Two models are compared on the same videos, in two ways. **Cross-fitted**, each is fitted once for
# each fold and tested on people, scenes and faces that it has not met; the difference of the AUC is
# taken within the folds, with an interval from draws of whole identity groups. On the **study's
# split**, the scores of the models are swapped, one identity group at a time, to show what chance
# would do. A video's score is the mean of its frame scores, and the threshold is the one with the
# largest balanced accuracy on validation.

# %% [markdown]
# ## Result
#
# The first table is the result of the study: probe and LoRA on the unseen manipulation, on people
# never met, with the intervals of the fitted detectors.

# %%
units = {unit: cross_fitting.of_models(crossed, unseen, bootstrap, unit=unit)
         for unit in ("frame", "video") if len(crossed)}
nothing = Markdown("This profile has no cross-fitting (`fold_draws` is 0).")
headline = {unit: cross_fitting.wide(rows) for unit, rows in units.items()}
display(pd.concat(headline, names=["unit"]) if units else nothing)

# %% [markdown]
# The next table gives the difference of LoRA and probe, video by video, for each draw of the folds
# and each training seed. The interval holds for the fitted detectors of a row; how far the rows lie
# apart shows what another draw or seed does.

# %%
by_kind = {kind: cross_fitting.against(crossed, kind) for kind in (unseen, seen) if units}
compared = {kind: cross_fitting.compare(fits, lora, probe, bootstrap)
            for kind, fits in by_kind.items()}
rows = pd.concat(compared, names=["tested on"]).droplevel(1) if units else pd.DataFrame()
display(rows.drop(columns="reason").round(3) if units else nothing)

# %% [markdown]
# The figure shows the same differences. Right of the dotted line LoRA is ahead.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3), sharex=True)
for ax, (kind, table) in zip(axes, compared.items(), strict=False):
    names = [f"draw {row.draw}, seed {row.seed}" for row in table.itertuples()]
    named = table.set_index(pd.Index(names))
    plots.intervals(named, ax, value="difference", reference=0)
    ax.set(title=f"tested on {kind}", xlabel="AUC of LoRA minus AUC of the probe")
figure.tight_layout()
plt.show()

# %% [markdown]
# In words, and with the frame level against the video level, whose difference has an interval too:

# %%
for kind, table in compared.items():
    display(Markdown(f"- {kind}: {cross_fitting.verdict(table, lora, probe)}"))
display(cross_fitting.levels(crossed, unseen, bootstrap).round(3) if units else nothing)

# %% [markdown]
# ### The study's split
#
# This is the table of the study, on its own split: the mean over the fits, with the lowest and
# highest AUC among them. A scene or a person of a tested fake may have been trained on.

# %%
per_split = tables.by_split(scores)
display(Markdown(f"Split: {splits.mark(protocol)}; a fit is a {splits.repeated(protocol)}."))
tables.over_splits(per_split)

# %% [markdown]
# The rates depend on the threshold. These are the same fits at the fixed threshold of one half,
# which looks at no validation video:

# %%
at_half = tables.over_splits(per_split, metrics.FIXED).loc["video"]
at_half[["ACC", "F1", "balanced"]]

# %% [markdown]
# These rows were **reported on FF++** by the study that is reproduced. They belong to other data
# and another CLIP; only their pattern may be compared.

# %%
published.models().set_index(["unit", "model"]).drop(columns="source")

# %% [markdown]
# The table gives the run time of one training and its scoring on this machine. Only these numbers
# change from run to run.

# %% tags=["nbval-ignore-output"]
seconds = {model: value for result in results for model, value in result.seconds.items()}
pd.Series(seconds, name="seconds").drop("total").round(1).to_frame()

# %% [markdown]
# Lines join the results of the same fit; the dotted line is chance.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for ax, unit in zip(axes, ("frame", "video"), strict=True):
    plots.by_split(tables.chosen(per_split, unit), ax)
    ax.tick_params(axis="x", rotation=12)
    ax.set_title(f"unit: {unit}, one line a {splits.repeated(protocol)}")
figure.tight_layout()
plt.show()

# %% [markdown]
# The figure shows the first fit in detail, frames above and videos below: the ROC curves of all
# models, and the confusion matrices of probe and LoRA at the threshold from validation. With few
# real test videos a curve has few steps: each step is one real video.

# %%
split_seed = int(scores.split_seed.min())
test = scores[(scores.split == "test") & (scores.split_seed == split_seed)]
figure, axes = plt.subplots(2, 3, figsize=(11, 7))
for (curve, *others), (unit, rows) in zip(
        axes, {"frame": test, "video": metrics.to_videos(test)}.items(), strict=True):
    plots.roc({model: rows[rows.model == model] for model in test.model.unique()}, curve)
    counts = tables.chosen(per_split, unit).query("split_seed == @split_seed")
    counts = counts.set_index("model")
    for ax, model in zip(others, (probe, lora), strict=True):
        plots.confusion(counts.loc[model, metrics.COUNTS].astype(int), ax, f"{unit}s, {model}")
figure.tight_layout()
plt.show()

# %% [markdown]
# The table compares LoRA with the probe on the same videos, draw by draw: the difference of the
# AUC, its interval, and the probability of so large a difference if the two were exchangeable.

# %%
paired = tables.paired(scores, lora, probe, bootstrap)
columns = ["difference", "low", "high", "p_permutation", "p_delong", "detectable"]
paired.set_index("split_seed")[columns].round(3)

# %% [markdown]
# ### Other corpora
#
# Where the profile names further corpora (`test_corpora`), the detectors of the first draw are
# tested on them. The table has one row for each corpus and model, with videos as the unit and the
# threshold from the validation split of the profile's corpus.

# %%
finished = dict(zip([probe, lora], results, strict=True))
elsewhere = across(run.profile, finished, split_seed)
none = Markdown("The profile names no other corpus.")
display(tables.across(elsewhere, scores).round(3) if len(elsewhere) else none)

# %% [markdown]
# ### The reported tables, decoded
#
# The study reports ACC and F1 of its videos, and the size of its test split is known. One confusion
# matrix fits each reported row; it is found here by trying all of them. Each reported AUC gets an
# interval. This project measured nothing in this table.

# %%
decoded = published.decoded(confidence).set_index("row")
decoded[["AUC", "low", "high", "TP", "FP", "FN", "TN", "balanced"]].round(3)

# %% [markdown]
# The frame rows leave several matrices possible. Their true-negative rates and balanced accuracies
# lie between these bounds:

# %%
published.decoded_frames().set_index("model").round(3)

# %% [markdown]
# Two questions can be answered from it: how the rows compare with the constant answer, and whether
# they can be distinguished.

# %%
constant = decoded.loc["constant_answer_fake"]
rows = decoded.drop(index="constant_answer_fake")
adapted, size = rows.drop(index="linear_probe"), published.TEST_VIDEOS
test_size = size["negatives"], size["positives"]
apart = adapted.AUC.max() - adapted.AUC.min()
middle = adapted.AUC.median()
correlation = power.correlation_of_spread(published.GRID_SETTINGS, middle, *test_size, apart)
gain = power.expected_optimism(published.GRID_SETTINGS, middle, *test_size,
                               correlation=correlation)
best, reported = rows.loc["best"], published.models().set_index(["unit", "model"])
levels = [reported.loc[unit, "lora"].AUC for unit in ("frame", "video")]
display(Markdown(f"""
- {int((rows.ACC <= constant.ACC).sum())} of {len(rows)} reported rows have no higher accuracy
  than the constant answer "fake", and {int((rows.F1 <= constant.F1).sum())} no higher F1. These
  two measures cannot rank them.
- The row with the best AUC calls {best.FP:.0f} of {size["negatives"]} real videos fake
  (balanced accuracy {best.balanced:.3f}); the highest accuracy among the LoRA rows is that of
  {adapted.ACC.idxmax()}.
- The reported AUCs of LoRA's settings lie {apart:.3f} apart. Equally good settings would spread
  as far if the scores of two of them correlated by {correlation:.2f} within a class. Choosing
  the best of {published.GRID_SETTINGS} of them on this test split would then add
  {gain["optimism"]:.3f} to its AUC on average, beside a reported gain over the probe of
  {best.AUC - rows.loc["linear_probe"].AUC:.3f}.
- LoRA's AUC of videos is {levels[1]:.3f} and that of frames {levels[0]:.3f}. The interval of
  the former goes from {best.low:.3f} to {best.high:.3f}: this table shows no gain of videos.
"""))

# %% [markdown]
# None of this means that the reported effect does not exist. It lists what a table needs to show
# it: balanced accuracy or the confusion matrix beside accuracy, the number of real videos,
# intervals over videos, a setting chosen on validation, and several draws of the split.

# %%
figure, ax = plt.subplots(figsize=(7, 3))
plots.intervals(rows.sort_values("AUC", ascending=False), ax)
ax.set_title("reported on FF++, with the interval that its test split allows", fontsize=9)
plt.show()

# %% [markdown]
# The answer of this chapter is computed from these tables, and shown below its question.

# %%
videos = tables.chosen(per_split, "video")
constant = per_split.query("unit == 'video' and answer == @metrics.CONSTANT")
below = videos.groupby("model").ACC.mean() <= constant.ACC.mean()
accuracy = (f"On the study's split, {int(below.sum())} of {len(below)} models have no higher "
            "accuracy than the constant answer \"fake\"; accuracy says little there.")
if units:
    run.answer(f"Tested on unseen {unseen} videos of people never met. "
               f"{cross_fitting.verdict(compared[unseen], lora, probe)} {accuracy}")
else:
    run.answer(f"{tables.answer(per_split, lora)} {tables.answer(per_split, probe)} {accuracy}")

# %% [markdown]
# ## Limits
#
# The cross-fitted intervals hold for the fitted detectors, and the draws of the folds share their
# videos: their spread is no standard error over people. The fits on the study's split share videos
# too, and its test split has few real ones. Training and test come from one corpus.

# %% [markdown]
# ## Try it
#
# - Another confidence level: `dfnb run 08 -p confidence 0.8`.
# - More draws of the folds: set `fold_draws: 6` for chapters 2 and 3 in `params/demo.yaml`, then
#   `dfnb study`. Does the order change?
# - Compare scores of your own detector: `dfnb evaluate mine.csv --other theirs.csv --out report`.

# %%
run.save({"rows": per_split.to_dict("records"), "paired": paired.to_dict("records"),
          "cross": {unit: rows.to_dict("records") for unit, rows in units.items()},
          "compared": {kind: table.to_dict("records") for kind, table in compared.items()}},
         elsewhere=elsewhere)
