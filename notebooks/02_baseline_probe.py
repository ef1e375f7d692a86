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
# **Question** Does CLIP tell real faces from manipulated ones without any adaptation?

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb.data import splits
from dfnb.evaluation import cross_fitting, metrics, plots, tables
from dfnb.experiment import Experiment
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
split_seed = 0  # first seed of the split
folds = 5  # folds of the cross-fitting: one tests, one validates, the others train
fold_draws = 3  # draws of the folds; 0: no cross-fitting
repeats = 5  # draws of the study's split; of the training alone where lists fix the split
train_on = "FaceSwap"  # manipulation in training and validation
test_on = "NeuralTextures"  # manipulation in the test part, never trained on
also_test = ""  # further unseen manipulations, separated by blanks, each in a separate table
protocol = "study"  # "study", "identity", "official" (the lists of the profile), ...
features = "projected"  # CLIP's feature: "projected" (as compared with text) or "pooled"
control_seed = 0  # seed of the untrained encoder that serves as the control

# %%
plots.style()
experiment = Experiment.open(profile)
run = start("02_baseline_probe", experiment.profile, globals())
encoders = {"probe, untrained encoder": experiment.clip.untrained(control_seed),
            "linear probe": experiment.clip}
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# Two protocols are used. The result is **cross-fitted** over identity groups, the protocol `cross`:
# the groups are dealt into folds, each fold is tested once by a detector that was trained and
# validated on the others, so no tested person, face or scene was seen before. Beside it stands the
# protocol of the study, with one draw for each split seed where no lists fix the split. In both,
# real videos and one manipulation are for training and validation, and an unseen manipulation is
# for testing. The table counts the videos of each fold.

# %%
others = also_test.split()
tested = [test_on, *others, train_on]
kinds = dict(train_manipulation=train_on, test_manipulations=tested)
shown = {f"fold {fold}": experiment.split("cross", seed=0, folds=folds, fold=fold, **kinds)
         for fold in range(folds if fold_draws else 0)}
sizes = [table[table.split == "test"].manipulation.value_counts().rename(name)
         for name, table in shown.items()]
nothing = Markdown("There is no cross-fitting in this profile.")
display(pd.DataFrame(sizes) if sizes else nothing)

# %% [markdown]
# The next table counts the videos of the other protocol, for the first draw.

# %%
kinds = dict(train_manipulation=train_on, test_manipulations=[test_on, *others])
split_tables = {seed: experiment.split(protocol, seed=seed, **kinds)
                for seed in range(split_seed, split_seed + repeats)}
sizes = split_tables[split_seed].groupby(["split", "manipulation"], sort=False).size()
sizes.unstack(fill_value=0)

# %% [markdown]
# ## Method
#
# CLIP's image encoder stays frozen {cite}`radford2021`. Its feature $f(x)$ of a crop goes through a
# logistic regression,
#
# $$ p(\text{fake} \mid x) = \sigma(w^\top f(x) + b), $$
#
# trained with balanced classes; the strength of its regularisation is the one with the best
# validation AUC. The **control** is the same probe on an encoder with random weights: its result
# shows what can be reached without any pre-training.
#
# The detectors of two folds have different offsets, so their scores cannot be ranked together. An
# AUC or EER is computed within each fold, and averaged by the folds' pairs of a real and a fake.
# Intervals draw whole identity groups within the folds; they hold for the fitted detectors.

# %%
crossed = pd.concat([experiment.cross_fit(
    "probe", folds=folds, draws=range(fold_draws), train_on=train_on, test_on=tested,
    model=encoder, features=features).assign(model=name)
    for name, encoder in encoders.items()] if fold_draws else [pd.DataFrame()])

# %% [markdown]
# The same detectors are then fitted on the study's split.

# %%
trials = {(name, seed): experiment.trial(
    "probe", table, seed=seed, model=encoder, features=features)
    for name, encoder in encoders.items() for seed, table in split_tables.items()}
every = pd.concat([trial.scores.assign(model=name) for (name, _), trial in trials.items()],
                  ignore_index=True)
scores = every[~every.manipulation.isin(others)]

# %% [markdown]
# ## Result
#
# The table holds the cross-fitted measures of videos with their intervals, for the first draw of
# the folds. The threshold comes from the validation fold. *Pooled AUC* ranks the scores of all
# folds together.

# %%
found = {kind: cross_fitting.of_models(crossed, kind) for kind in tested if fold_draws}
display(cross_fitting.wide(found[test_on]) if found else nothing)

# %% [markdown]
# The next table tests the same detectors on each manipulation, the one of the training split among
# them, always on people that were never met.

# %%
by_kind = {kind: cross_fitting.wide(rows) for kind, rows in found.items()}
columns = ["AUC", "EER", "balanced"]
display(pd.concat(by_kind, names=["tested on"])[columns] if found else nothing)

# %% [markdown]
# Another draw of the folds gives other detectors and other numbers:

# %%
spread = cross_fitting.spread(crossed, test_on)
display(spread.round(3) if fold_draws else nothing)

# %% [markdown]
# ### The study's split
#
# The table has one row for each unit and model. It holds the mean of every measure over the draws
# of the split, and the lowest and highest AUC among the draws. The threshold comes from validation;
# the last row is the constant answer "fake".

# %%
per_split = tables.by_split(scores)
display(Markdown(f"Split: {splits.mark(protocol)}."), tables.over_splits(per_split))

# %% [markdown]
# In the study's split a scene can train with one label only, and the other label of that scene is
# then tested. The next rows train on **complete scenes** alone: those of which the training split
# holds both the real and the fake. Validation and test stay the same.

# %%
complete = {seed: experiment.trial("probe", splits.complete_scenes(table, experiment.videos),
                                   seed=seed, describe=False, features=features)
            for seed, table in split_tables.items()}
paired = pd.concat([trial.scores for trial in complete.values()], ignore_index=True)
paired = paired[~paired.manipulation.isin(others)].assign(model="linear probe, complete scenes")
tables.over_splits(tables.by_split(paired)).query("model != 'always \"fake\"'")

# %% [markdown]
# Each grey line below is one draw of the split. The points show what a single table row hides: how
# far the AUC moves when other real videos are tested.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for ax, unit in zip(axes, ("frame", "video"), strict=True):
    plots.by_split(tables.chosen(per_split, unit), ax)
    ax.set_title(f"{unit} level")
plt.show()

# %% [markdown]
# The next figures show the first draw in detail: how the scores of reals and fakes overlap, the ROC
# curves of frames and of videos, and the confusion matrix of the videos.

# %%
drawn = "model == 'linear probe' and split_seed == @split_seed"
first = scores.query(f"{drawn} and split == 'test'")
videos = metrics.to_videos(first)
row = tables.chosen(per_split, "video").query(drawn)
row = row.iloc[0]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
plots.score_histogram(first, axes[0])
plots.roc({"frames": first, "videos": videos}, axes[1])
plots.confusion(row[["TP", "FP", "FN", "TN"]].astype(int), axes[2],
                "videos, threshold from validation")
figure.tight_layout()
plt.show()

# %% [markdown]
# Where `also_test` names other unseen manipulations, each is tested separately. A detector need not
# treat two manipulations alike.

# %%
by_manipulation = tables.by_manipulation(every, others)
display(by_manipulation if len(by_manipulation) else Markdown("None is named here."))

# %% [markdown]
# The answer of this chapter is computed from these tables, and shown below its question.

# %%
run.answer(cross_fitting.answer(
    crossed, "linear probe", "probe, untrained encoder", test_on) if fold_draws else
    tables.answer(per_split, "linear probe"))

# %% [markdown]
# ## Limits
#
# The cross-fitted intervals hold for the fitted detectors; the spread over draws of the folds is a
# second number. Validation holds the manipulation of the training split, so the threshold need not
# fit another one. The intervals of the study's split treat videos as the unit, although two videos
# of one identity group are not quite independent, and its test fakes show scenes and people of the
# training split (chapter 1), which can lower an AUC as well as raise it. Where lists fix the split,
# the probe is the same for every seed.

# %% [markdown]
# ## Try it
#
# - Train on the other manipulation: `dfnb run 02 -p train_on NeuralTextures -p test_on FaceSwap`.
#   Is what the probe learns as general in this direction?
# - Take the feature before CLIP's projection: `dfnb run 02 -p features pooled`.
# - Deal the people into ten folds, so that more of them train: `dfnb run 02 -p folds 10`.

# %%
run.seconds |= {name: sum(trials[name, seed].seconds for seed in split_tables) / repeats
                for name in encoders}
run.save({"rows": per_split.to_dict("records"), "spread": spread.to_dict("records"),
          "cross": {kind: rows.to_dict("records") for kind, rows in found.items()}},
         scores=scores, crossed=crossed, others=every[every.manipulation.isin(others)],
         detector=trials["linear probe", split_seed].detector)
