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
# # 2. A linear probe on frozen CLIP
#
# **Question** Does CLIP, as it comes, already tell real faces from manipulated ones?
#
# **Answer** Only in part: a linear probe on its features is better than chance on an unseen manipulation, and its score moves a great deal with the draw of the split.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import metrics, plots, runs, tables, workbench

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
split_seed = 0  # first seed of the split
repeats = 5  # splits drawn anew, with seeds split_seed, split_seed + 1, ...
train_on = "FaceSwap"  # manipulation in training and validation
test_on = "NeuralTextures"  # manipulation in the test part, never trained on
features = "projected"  # CLIP's feature: "projected" (normalised, as compared with text) or "pooled"
control_seed = 0  # seed of the untrained tower that serves as the control

# %%
plots.style()
bench = workbench.open(profile)
run = runs.start("02_baseline_probe", bench.profile, dict(
    split_seed=split_seed, repeats=repeats, train_on=train_on, test_on=test_on,
    features=features, control_seed=control_seed))
towers = {"probe, untrained tower": bench.clip.untrained(control_seed), "linear probe": bench.clip}
display(Markdown(run.stamp()))

# %% [markdown]
# ## Data
#
# The split of chapter 1, drawn anew for each seed: real and one manipulation to train and validate, other reals and an unseen manipulation to test.

# %%
splits = {seed: bench.parts("study", seed=seed, train_method=train_on, test_methods=[test_on])
          for seed in range(split_seed, split_seed + repeats)}
splits[split_seed].groupby(["part", "method"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# ## Method
#
# CLIP's image tower stays frozen {cite}`radford2021`. Its feature $f(x)$ of a crop goes through a logistic regression,
#
# $$ p(\text{fake} \mid x) = \sigma(w^\top f(x) + b), $$
#
# trained with balanced classes; the strength of its regularisation is the one with the best validation AUC. The **control** is the same probe on a tower
# with random weights: what it reaches needs no knowledge at all.

# %%
trials = {(name, seed): bench.trial("probe", parts, seed=seed, model=tower, features=features)
          for name, tower in towers.items() for seed, parts in splits.items()}
scores = pd.concat([trial.scores.assign(model=name) for (name, _), trial in trials.items()],
                   ignore_index=True)

# %% [markdown]
# ## Result
#
# One row a model and level: the mean over the splits of every measure, and the lowest and highest AUC among the splits. The threshold comes from
# validation; the constant answer "fake" stands below.

# %%
per_split = tables.by_split(scores)
tables.over_splits(per_split)

# %% [markdown]
# Each grey line below is one split. The points show what a single table row hides: how far the AUC moves when ten other real videos happen to be tested.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for ax, level in zip(axes, ("frame", "video"), strict=True):
    plots.by_split(tables.chosen(per_split, level), ax)
    ax.set_title(f"{level} level")
plt.show()

# %% [markdown]
# The first split in detail: how the scores of reals and fakes overlap, the ROC curves at both levels, and the confusion matrix of the videos.

# %%
first = scores.query("model == 'linear probe' and split == @split_seed and part == 'test'")
videos = metrics.to_videos(first)
row = tables.chosen(per_split, "video").query("model == 'linear probe' and split == @split_seed")
row = row.iloc[0]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
plots.score_histogram(first, axes[0])
plots.roc({"frames": first, "videos": videos}, axes[1])
plots.confusion(row[["TP", "FP", "FN", "TN"]].astype(int), axes[2], "videos, threshold from validation")
figure.tight_layout()
plt.show()

# %% [markdown]
# What the splits say together:

# %%
wide = tables.chosen(per_split, "frame").pivot(index="split", columns="model", values="AUC")
wins = int((wide["linear probe"] > wide["probe, untrained tower"]).sum())
means = wide.mean()
display(Markdown(f"The probe is ahead of its untrained control on {wins} of {len(wide)} splits; mean frame "
                 f"AUC {means['linear probe']:.3f} against {means['probe, untrained tower']:.3f}."))

# %% [markdown]
# ## Limits
#
# The intervals treat videos as the unit; two videos of one identity group are still not quite independent. The split shows training scenes again in the test
# fakes (chapter 1), which can lower a score as well as raise it.

# %%
run.seconds |= {name: sum(trials[name, seed].seconds for seed in splits) / repeats for name in towers}
run.save({"rows": per_split.to_dict("records")}, scores=scores,
         detector=trials["linear probe", split_seed].detector)
