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
# # 8. Summary: the study's table
#
# **Question** What does the whole study show when probe and LoRA stand side by side, with the
# constant answer and the reported rows?
#
# **Answer** In the demo world the mean AUC of the frozen probe on the unseen manipulation is not
# below that of LoRA, unlike in the reported rows. Accuracy and F1 could not show it: the constant
# answer "fake" is hard to beat on them.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import config
from dfnb.evaluation import metrics, plots, power, published, tables
from dfnb.evaluation.intervals import Bootstrap
from dfnb.experiment import across
from dfnb.runs import results
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
confidence = 0.95  # confidence level of the intervals
draws = 2000  # bootstrap and permutation draws
correlation = 0.7  # assumed correlation of two settings' scores within a class

# %%
plots.style()
run = start("08_summary", config.load(profile), globals())
results = [results.result(profile, name) for name in ("02_baseline_probe", "03_lora_training")]
display(Markdown(run.stamp()))

# %% [markdown]
# ## Data
#
# Nothing is trained here. This chapter reads the frame scores that chapters 2 and 3 saved; the
# table counts what each was measured on.

# %%
scores = pd.concat([result.scores for result in results], ignore_index=True)
scores[scores.split == "test"].groupby(["model", "manipulation"], sort=False).agg(
    splits=("split_seed", "nunique"), videos=("video", "nunique"), groups=("group", "nunique"),
    frames=("frame", "size"))

# %% [markdown]
# ## Method
#
# A video's score is the mean of its frame scores. The threshold is the one with the largest
# balanced accuracy on validation. The AUC of one split carries Newcombe's interval
# {cite}`newcombe2006`, computed on videos. Two models are compared on the same videos. Swapping
# their scores, one identity group at a time, shows what chance would do; whole groups are drawn for
# the interval of the difference.

# %% [markdown]
# ## Result
#
# This is the table of the study. The measured rows come first: the mean over the draws of the
# split, with the lowest and highest AUC among them.

# %%
per_split = tables.by_split(scores)
tables.over_splits(per_split)

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
# Lines join the results of the same draw of the split; the dotted line is chance.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for ax, unit in zip(axes, ("frame", "video"), strict=True):
    plots.by_split(tables.chosen(per_split, unit), ax)
    ax.tick_params(axis="x", rotation=12)
    ax.set_title(f"unit: {unit}, one line a split")
figure.tight_layout()
plt.show()

# %% [markdown]
# The figure shows the ROC curves of one draw, with videos as the unit. With few real test videos a
# curve has few steps: each step is one real video.

# %%
split_seed = int(scores.split_seed.min())
test = metrics.to_videos(scores[(scores.split == "test") & (scores.split_seed == split_seed)])
figure, ax = plt.subplots(figsize=(4.2, 4.2))
plots.roc({model: rows for model, rows in test.groupby("model", sort=False)}, ax)
plt.show()

# %% [markdown]
# The table compares LoRA with the probe on the same videos, draw by draw: the difference of the
# AUC, its interval, and the probability of so large a difference if the two were exchangeable.

# %%
paired = tables.paired(scores, "LoRA", "linear probe", Bootstrap(confidence, draws))
columns = ["difference", "low", "high", "p_permutation", "p_delong", "detectable"]
paired.set_index("split_seed")[columns].round(3)

# %% [markdown]
# One sentence sums the comparison up:

# %%
ahead = int((paired.difference > 0).sum())
better, worse = int((paired.low > 0).sum()), int((paired.high < 0).sum())
display(Markdown(f"LoRA is ahead on {ahead} of {len(paired)} draws of the split. The interval "
                 f"of the difference lies above zero on {better} of them and below zero on "
                 f"{worse}."))

# %% [markdown]
# ### Other corpora
#
# Where the profile names further corpora (`test_corpora`), the detectors of the first draw are
# tested on them. The table has one row for each corpus and model, with videos as the unit and the
# threshold from the validation split of the profile's corpus.

# %%
finished = dict(zip(["linear probe", "LoRA"], results, strict=True))
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
decoded.round(3)

# %% [markdown]
# Two questions can be answered from it: how the rows compare with the constant answer, and whether
# they can be distinguished.

# %%
constant = decoded.loc["constant_answer_fake"]
rows = decoded.drop(index="constant_answer_fake")
lora = rows.drop(index="linear_probe")
gain = power.expected_optimism(published.GRID_SETTINGS, lora.AUC.median(),
                               published.TEST_VIDEOS["negatives"],
                               published.TEST_VIDEOS["positives"], correlation=correlation)
reals, best = published.TEST_VIDEOS["negatives"], rows.loc["best"]
reach = int((lora.high >= lora.AUC.max()).sum())
display(Markdown(f"""
- {int((rows.ACC <= constant.ACC).sum())} of {len(rows)} reported rows have no higher accuracy
  than the constant answer "fake", and {int((rows.F1 <= constant.F1).sum())} no higher F1. These
  two measures cannot rank them.
- The row with the best AUC calls {best.FP} of {reals} real videos fake (balanced accuracy
  {best.balanced:.3f}); the highest accuracy among the LoRA rows is that of {lora.ACC.idxmax()}.
- {reach} of the {len(lora)} LoRA rows have an interval that reaches the best AUC.
- Choosing the best of {published.GRID_SETTINGS} equally good settings on so small a test split
  adds {gain["optimism"]:.3f} to its AUC on average, if the scores of two settings correlate by
  {correlation} within a class (an assumption).
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
# ## Limits
#
# The draws of the split share videos, so their results are not independent trials. The test split
# has few real videos, and no measure here is more certain than they allow.

# %%
run.save({"rows": per_split.to_dict("records"), "paired": paired.to_dict("records")},
         elsewhere=elsewhere)
