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
#
# **Answer** LoRA is much better on the manipulation that it was trained on. On an unseen one in the
# demo world it is not ahead of the frozen probe on most draws of the split: what is learnt about
# one manipulation need not carry over.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb.data import splits
from dfnb.evaluation import metrics, plots, tables
from dfnb.experiment import Experiment
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
split_seed = 0  # first seed of the split
repeats = 5  # draws of the split; of the training alone where lists fix the split
train_on = "FaceSwap"  # manipulation in training and validation
test_on = "NeuralTextures"  # manipulation in the test part, never trained on
also_test = ""  # further unseen manipulations, separated by blanks, each in a separate table
protocol = "study"  # "study", "identity", "official" (the lists of the profile), ...
rank = 8  # r, rank of the added matrices
alpha = 64  # scale of the addition, which is alpha / r times B A x
dropout = 0.05  # share of the adapter's inputs dropped in training
blocks = 0  # adapted blocks, counted from the last; 0 adapts all
learning_rate = 0.001  # peak of the schedule (AdamW, warm-up, cosine)
batch = 32  # crops a step, half real and half fake on average
epochs = 4  # passes over the training part; the best on validation is kept
fraction = 1.0  # share of the training videos, drawn by identity group
steps = 0  # gradient steps, spread over the epochs; 0 lets the training part decide

# %%
plots.style()
experiment = Experiment.open(profile)
options = dict(rank=rank, alpha=alpha, dropout=dropout, blocks=blocks,
               learning_rate=learning_rate, batch=batch, epochs=epochs, steps=steps)
run = start("03_lora_training", experiment.profile, globals())
display(Markdown(f"{run.stamp()} Split: {splits.mark(protocol)}."))

# %% [markdown]
# ## Data
#
# The splits are those of chapter 2, so that the two detectors can be compared draw by draw.

# %%
others = also_test.split()
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

# %%
options |= {"blocks": blocks or None, "steps": steps or None}
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
# The table holds the mean of every measure over the draws of the split, and the lowest and highest
# AUC among them. The threshold comes from validation.

# %%
per_split = tables.by_split(scores)
tables.over_splits(per_split)

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
# ## Limits
#
# Two things may lower the AUC on the unseen manipulation, and this chapter does not tell them
# apart. What is learnt may be specific to the manipulation in training. And the scene of a tested
# real may have been trained on as a fake (chapter 5), so that a detector that remembers scenes
# answers backwards.
#
# Early stopping looks at validation, which holds the manipulation of the training split: the epoch
# that is best there need not be best on an unseen one. Chapter 4 asks whether rank, alpha and
# dropout matter.

# %%
run.seconds["LoRA"] = sum(trial.seconds for trial in trials.values()) / repeats
run.save(
    {
        "rows": per_split.to_dict("records"), "history": history.to_dict("records"),
        "trainable": detector.trainable
    }, scores=scores, others=every[every.manipulation.isin(others)], detector=detector)
