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
#
# **Answer** Only in part. A linear probe on its features is better than chance on an unseen
# manipulation, and its AUC differs a great deal between draws of the split.

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
features = "projected"  # CLIP's feature: "projected" (as compared with text) or "pooled"
control_seed = 0  # seed of the untrained encoder that serves as the control

# %%
plots.style()
experiment = Experiment.open(profile)
run = start("02_baseline_probe", experiment.profile, globals())
encoders = {"probe, untrained encoder": experiment.clip.untrained(control_seed),
            "linear probe": experiment.clip}
display(Markdown(f"{run.stamp()} Split: {splits.mark(protocol)}."))

# %% [markdown]
# ## Data
#
# The videos are split as in chapter 1, with one draw for each split seed where no lists fix the
# split. Real videos and one manipulation are for training and validation; other real videos and an
# unseen manipulation are for testing.

# %%
others = also_test.split()
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
# The table has one row for each unit and model. It holds the mean of every measure over the draws
# of the split, and the lowest and highest AUC among the draws. The threshold comes from validation;
# the last row is the constant answer "fake".

# %%
per_split = tables.by_split(scores)
tables.over_splits(per_split)

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
# The draws are compared in one sentence:

# %%
chosen = tables.chosen(per_split, "frame")
wide = chosen.pivot(index="split_seed", columns="model", values="AUC")
wins = int((wide["linear probe"] > wide["probe, untrained encoder"]).sum())
means = wide.mean()
display(Markdown(f"The probe is ahead of its untrained control on {wins} of {len(wide)} draws; "
                 f"mean frame AUC {means['linear probe']:.3f} against "
                 f"{means['probe, untrained encoder']:.3f}."))

# %% [markdown]
# Where `also_test` names other unseen manipulations, each is tested separately. A detector need not
# treat two manipulations alike.

# %%
by_manipulation = tables.by_manipulation(every, others)
display(by_manipulation if len(by_manipulation) else Markdown("None is named here."))

# %% [markdown]
# ## Limits
#
# The intervals treat videos as the unit, although two videos of one identity group are not quite
# independent. The protocol `study` shows training scenes again in the test fakes (chapter 1), which
# can lower an AUC as well as raise it. Where lists fix the split, the probe is the same for every
# seed.

# %%
run.seconds |= {name: sum(trials[name, seed].seconds for seed in split_tables) / repeats
                for name in encoders}
run.save({"rows": per_split.to_dict("records")}, scores=scores,
         others=every[every.manipulation.isin(others)],
         detector=trials["linear probe", split_seed].detector)
