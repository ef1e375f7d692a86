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
# # 3. LoRA on CLIP's image encoder
#
# **Question** How much better does CLIP become when a few low-rank matrices inside of it are
# trained?

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
training_seeds = 2  # training seeds for each draw of the folds
repeats = 5  # draws of the study's split; of the training alone where lists fix the split
train_on = "FaceSwap"  # manipulation in training and validation
test_on = "NeuralTextures"  # manipulation in the test part, never trained on
also_test = ""  # further unseen manipulations, separated by blanks, each in a separate table
protocol = "study"  # "study", "identity", "official" (the lists of the profile), ...
rank = 8  # r, rank of the added matrices
alpha = 64  # scale of the addition, which is alpha / r times B A x
dropout = 0.05  # share of the adapter's inputs dropped in training
blocks = 0  # adapted blocks, counted from the last; 0 adapts all
learning_rate = 0.001  # peak of the schedule (AdamW, warm-up, cosine)
batch = 32  # crops a step, half real and half fake
epochs = 4  # passes over the training part; the best on validation is kept
fraction = 1.0  # share of the training videos, drawn by identity group
steps = 0  # gradient steps, spread over the epochs; 0 lets the training part decide
patience = 2  # epochs without a better one before training stops; 0: it never stops early

# %%
plots.style()
experiment = Experiment.open(profile)
options = dict(rank=rank, alpha=alpha, dropout=dropout, blocks=blocks,
               learning_rate=learning_rate, batch=batch, epochs=epochs)
run = start("03_lora_training", experiment.profile, globals())
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# The folds and the splits are those of chapter 2, so that the two detectors can be compared draw by
# draw. The table counts the videos of the study's split, for its first draw.

# %%
others = also_test.split()
tested = [test_on, *others, train_on]
kinds = dict(train_manipulation=train_on, test_manipulations=[test_on, *others])
split_tables = {seed: experiment.split(protocol, seed=seed, **kinds)
                for seed in range(split_seed, split_seed + repeats)}
split_tables = {seed: splits.fraction(table, experiment.videos, fraction, seed)
                for seed, table in split_tables.items()}
sizes = split_tables[split_seed].groupby(["split", "manipulation"], sort=False).size()
sizes.unstack(fill_value=0)

# %% [markdown]
# ## Method
#
# A weight $W$ of the query and value projections gets a low-rank addition {cite}`hu2022`,
#
# $$ y = W x + \frac{\alpha}{r} B A x, $$
#
# with $B = 0$ at the start, so that training begins at CLIP itself. Only $A$, $B$ and a linear head
# train. After each epoch the validation split is scored. The epoch with the best AUC there is kept,
# and only that one is scored on the test split.
#
# LoRA is cross-fitted as in chapter 2, for each draw of the folds with several training seeds: the
# draw decides which people train, the seed decides the start and the order of the crops.

# %%
options |= {"blocks": blocks or None, "steps": steps or None, "patience": patience or None}
crossed = pd.DataFrame() if not fold_draws else experiment.cross_fit(
    "lora", folds=folds, draws=range(fold_draws), seeds=range(training_seeds),
    train_on=train_on, test_on=tested, **options).assign(model="LoRA")

# %% [markdown]
# The same detector is then fitted on the study's split.

# %%
trials = {seed: experiment.trial("lora", table, seed=seed, **options)
          for seed, table in split_tables.items()}
every = pd.concat([trial.scores for trial in trials.values()], ignore_index=True)
every = every.assign(model="LoRA")
scores = every[~every.manipulation.isin(others)]

# %% [markdown]
# The loss on the training split keeps falling after the validation AUC has stopped improving; the
# epoch is chosen there. Each line is one draw of the split, and each dot marks the epoch that was
# kept. A dot at the very end would mean that the schedule was too short.

# %%
history = pd.concat([pd.DataFrame(trial.detector.history).assign(split_seed=seed)
                     for seed, trial in trials.items()], ignore_index=True)
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
plots.training_curves(history, *axes)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Result
#
# The table holds the cross-fitted measures of videos with their intervals, for the first draw of
# the folds and the first seed, by the manipulation that was tested; the last one is that of the
# training split. No tested person was met in training. The summary puts LoRA beside the probe.

# %%
found = {kind: cross_fitting.of_models(crossed, kind) for kind in tested if fold_draws}
nothing = Markdown("There is no cross-fitting here.")
by_kind = {kind: cross_fitting.wide(rows) for kind, rows in found.items()}
display(pd.concat(by_kind, names=["tested on"]) if found else nothing)

# %% [markdown]
# Another draw of the folds, or another training seed, gives other detectors and other numbers:

# %%
spread = cross_fitting.spread(crossed, test_on)
display(spread.round(3) if fold_draws else nothing)

# %% [markdown]
# ### The study's split
#
# The table holds the mean of every measure over the draws of the split, and the lowest and highest
# AUC among them. The threshold comes from validation.

# %%
per_split = tables.by_split(scores)
display(Markdown(f"Split: {splits.mark(protocol)}."), tables.over_splits(per_split))

# %% [markdown]
# The next rows train on **complete scenes** alone: those of which the training split holds both the
# real and the fake, as in chapter 2.

# %%
complete = {seed: experiment.trial("lora", splits.complete_scenes(table, experiment.videos),
                                   seed=seed, describe=False, **options)
            for seed, table in split_tables.items() if fold_draws}
whole = [trial.scores.assign(model="LoRA, complete scenes") for trial in complete.values()]
whole = pd.concat(whole, ignore_index=True) if whole else scores.iloc[:0]
whole = whole[~whole.manipulation.isin(others)]
display(tables.over_splits(tables.by_split(whole)).drop("always \"fake\"", level="model")
        if len(whole) else nothing)

# %% [markdown]
# The next figures show the first draw in detail: scores by class, the ROC curves of frames and of
# videos, and the confusion matrix of the videos.

# %%
first = scores[(scores.split_seed == split_seed) & (scores.split == "test")]
videos = metrics.to_videos(first)
row = tables.chosen(per_split, "video").query("split_seed == @split_seed").iloc[0]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
plots.score_histogram(first, axes[0])
plots.roc({"frames": first, "videos": videos}, axes[1])
plots.confusion(row[["TP", "FP", "FN", "TN"]].astype(int), axes[2],
                "videos, threshold from validation")
figure.tight_layout()
plt.show()

# %% [markdown]
# The figure shows one real test video and its manipulated version, frame by frame. The horizontal
# lines are their means, and the dashed line is the threshold. A video's score is steadier than any
# of its frames.

# %%
real = first[first.manipulation == "real"].video.min()
pair = first[(first.video == real) | (first.video.str.startswith(f"{real}_"))]
figure, ax = plt.subplots(figsize=(7, 2.8))
plots.timeline(pair, ax, threshold=row.threshold)
plt.show()

# %% [markdown]
# Where `also_test` names other unseen manipulations, each is tested separately.

# %%
by_manipulation = tables.by_manipulation(every, others)
display(by_manipulation if len(by_manipulation) else Markdown("None is named here."))

# %% [markdown]
# The adaptation trains this many parameters:

# %%
detector = trials[split_seed].detector
encoder = sum(weights.numel() for weights in experiment.clip.trainable_encoder().parameters())
share = detector.trainable / encoder
display(Markdown(f"{detector.trainable:,} values were trained, {share:.1%} of the image "
                 f"encoder's {encoder:,}."))

# %% [markdown]
# Each adapted block has four matrices of $r \times d$ values, with $d$ the width of the encoder, so
# that $4 r d$ values a block train, beside the head. The answer of this chapter is computed from
# its tables, and shown below its question.

# %%
run.answer(cross_fitting.seen_and_unseen(crossed, "LoRA", train_on, test_on) if fold_draws else
           tables.answer(per_split, "LoRA"))

# %% [markdown]
# ## Limits
#
# The intervals hold for the fitted detectors, and the spread over draws of the folds and training
# seeds is a second number. Early stopping looks at validation, which holds the manipulation of the
# training split: the epoch that is best there need not be best on an unseen one. On the study's
# split a second thing may lower the AUC: the scene of a tested real may have been trained on as a
# fake (chapter 5), so that a detector that remembers scenes answers backwards. Chapter 4 asks
# whether rank, alpha and dropout matter.

# %% [markdown]
# ## Try it
#
# - Adapt two blocks: `dfnb run 03 -p blocks 2 -p repeats 1`. What happens on the manipulation of the
#   training split, and what on the unseen one?
# - Train on half of the people: `dfnb run 03 -p fraction 0.5 -p fold_draws 0` (the fraction holds
#   for the study's split).
# - Turn the question round: `dfnb run 03 -p train_on NeuralTextures -p test_on FaceSwap`.

# %%
run.seconds["LoRA"] = sum(trial.seconds for trial in trials.values()) / repeats
run.save(
    {
        "rows": per_split.to_dict("records"), "history": history.to_dict("records"),
        "spread": spread.to_dict("records"),
        "cross": {kind: rows.to_dict("records") for kind, rows in found.items()},
        "trainable": detector.trainable
    }, scores=scores, crossed=crossed, others=every[every.manipulation.isin(others)],
    detector=detector)
