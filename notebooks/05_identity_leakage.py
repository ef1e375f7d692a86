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
# # 5. Identity leakage
#
# **Question** How much of a detector's AUC comes from knowing the video, the scene or the face,
# rather than from seeing a manipulation?

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import KEY
from dfnb.data import identity, leak_splits, negative_controls, splits
from dfnb.evaluation import intervals, leakage, plots
from dfnb.evaluation.intervals import Bootstrap
from dfnb.experiment import Experiment, planted_worlds
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
seed = 0  # of the draw of pairs; fold k trains with seed + k
folds = 3  # paired repetitions, each on other test pairs
pairs = 16  # test pairs a fold, and as many twins that train
validation_pairs = 6  # pairs a fold that validate, the same in all designs
frames = 4  # frames a video that train; as many others test
train_on = "FaceSwap"  # manipulation in training, validation and the within test
test_on = "NeuralTextures"  # manipulation of the across test
rank = 8  # LoRA: rank of the added matrices
alpha = 64  # LoRA: scale of the addition
dropout = 0.05  # LoRA: share of the adapter's inputs dropped in training
blocks = 3  # LoRA: adapted blocks, counted from the last
lora_rate = 0.001  # LoRA: peak of the learning rate
full_rate = 0.0001  # full fine-tuning: peak of the learning rate
epochs = 3  # passes over the training part; the best on validation is kept
batch = 32  # crops a step, half real and half fake
steps = 0  # gradient steps, spread over the epochs; 0 lets the training part decide
planted = 20  # grey levels of the planted cue
planted_people = 32  # identities of the planted world
planted_seeds = 4  # splits of the planted world by each protocol
confidence = 0.95  # confidence level of the intervals
draws = 2000  # bootstrap draws

# %%
plots.style()
experiment = Experiment.open(profile)
shape = dict(rank=rank, alpha=alpha, dropout=dropout, blocks=blocks)
fitting = dict(epochs=epochs, batch=batch, steps=steps or None)
lora = shape | fitting | dict(learning_rate=lora_rate)
full = fitting | dict(learning_rate=full_rate)
bootstrap = Bootstrap(confidence, draws)
run = start("05_identity_leakage", experiment.profile, globals())
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# Identities come in closed pairs: the reals $a$ and $b$, the fakes $a\_b$ (scene of $a$, face of
# $b$) and $b\_a$. A test pair gives one test video, its real $a$ or its fake $a\_b$, and has a
# *twin* pair elsewhere. The design `identity` trains on the twins; every other design trains on
# some videos of the test pair instead of the same ones of its twin. So all designs share the test
# videos, the validation videos, and the number of training videos and frames of each class. Where
# the profile's videos hold too few closed pairs, as the first hundred of FaceForensics++ do, the
# pairs are taken from the whole corpus.

# %%
pool = experiment.paired(2 * pairs + validation_pairs, [train_on, test_on])
drawn = dict(train_manipulation=train_on, test_manipulations=[test_on], pairs=pairs,
             validation=validation_pairs, per_video=frames, seed=seed)
designs = {fold: leak_splits.design(pool.crops.frames, fold=fold, **drawn)
           for fold in range(folds)}
sizes = pd.concat(designs[0], names=["design"]).reset_index("design")
sizes = sizes.groupby(["split", "manipulation", "design"], sort=False).video
sizes = sizes.agg(["nunique", "size"])
sizes.unstack("design").swaplevel(axis=1)[list(leak_splits.DESIGNS)]

# %% [markdown]
# The table audits the first fold: it gives the share of the test videos that was seen in training,
# and the label that was seen. Only the design `frame` shows a video with the right label. A sibling
# always carries the *other* label: the real of a tested fake, the fake of a tested real. A fifth
# protocol, `pair`, equals `identity` where all pairs are closed, as here.

# %%
audits = {design: identity.audit(table, pool.videos) for design, table in designs[0].items()}
audit = pd.concat(audits, names=["design"]).query("leak in ['frame', 'scene', 'face']")
audit.pivot_table(index=["design", "manipulation"], columns="leak",
                  values=["seen_as_real", "seen_as_fake"], sort=False)

# %% [markdown]
# The protocol of the study is audited on the split of chapter 2: real videos are split, and all
# fakes of the unseen manipulation are tested.

# %%
table = experiment.split("study", seed=seed, train_manipulation=train_on,
                         test_manipulations=[test_on])
protocol = identity.audit(table, experiment.videos)
display(Markdown(identity.describe(protocol, "scene")))
protocol.set_index(["manipulation", "leak"]).round(2)

# %% [markdown]
# ## Method
#
# A linear probe, LoRA and full fine-tuning are trained in every design with the same budget. Half
# of a video's frames train, the other half test, so no tested frame is ever trained on. Each fold
# tests other pairs with another training seed; an AUC is the mean over the folds,
#
# $$ \Delta_{\text{design}} = \frac{1}{K} \sum_k
# \left( \text{AUC}_{k, \text{design}} - \text{AUC}_{k, \text{identity}} \right), $$
#
# and the interval of the gap $\Delta$ draws whole identity groups, the same ones for all designs.

# %%
models = {"linear probe": ("probe", {}), "LoRA": ("lora", lora),
          "full fine-tuning": ("full", full)}
fitted = {}
for model, (detector, options) in models.items():
    with run.timed(model):
        fitted[model] = leakage.trials(pool, designs, detector, seed=seed, **options)
scores = leakage.collect(fitted)

# %% [markdown]
# ## Result
#
# The table gives the AUC of every design, with leaky ones marked, *within* the manipulation of the
# training split and *across* to the unseen one, from one fit each. The gap is the difference to the
# design `identity` on the same videos.

# %%
both = (train_on, test_on)
gaps = pd.concat([leakage.gaps(scores, fakes, bootstrap) for fakes in both], ignore_index=True)
leakage.side_by_side(gaps).round(3)

# %% [markdown]
# The figure shows the gaps with their intervals; the small marks are the folds. Right of the dotted
# line a leak flatters the detector, and left of it a leak hides what the detector can do.

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4), sharey=True)
leaky = gaps[gaps.design != leak_splits.REFERENCE].groupby("fakes", sort=False)
for ax, (fakes, rows) in zip(axes, leaky, strict=True):
    rows = rows.assign(low=rows.gap_low, high=rows.gap_high)
    rows = rows.set_index(rows.model + ", " + rows.design.map(splits.mark))
    plots.intervals(rows, ax, value="gap", reference=0)
    for place, values in enumerate(reversed(rows.by_split.tolist())):
        ax.plot(values, [place] * len(values), "|", color=plots.INK, ms=9)
    ax.set(title=f"{train_on} to {fakes}", xlabel="gap of the AUC to the design identity")
figure.tight_layout()
plt.show()

# %% [markdown]
# The intervals support these statements:

# %%
display(Markdown(leakage.describe(gaps)))

# %% [markdown]
# An AUC does not say which class moved. The figure shows the shift of the mean logit of each class
# against the design `identity`, in standard deviations of the validation videos' logits. These
# videos are the same in all designs, so a detector whose logits merely spread more does not shift.
# A leak helps when reals move left and fakes move right.

# %%
shifts = leakage.shifts(scores, bootstrap)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), sharey=True)
for ax, manipulation in zip(axes, ("real", train_on, test_on), strict=True):
    rows = shifts[shifts.manipulation == manipulation]
    named = rows.set_index(rows.model + ", " + rows.design.map(splits.mark))
    plots.intervals(named, ax, value="shift", reference=0)
    ax.set(title=f"{manipulation} ({rows.videos.iloc[0]} videos)",
           xlabel="shift, deviations of the validation logits")
figure.tight_layout()
plt.show()

# %% [markdown]
# The table lists which class moved where the AUC fell.

# %%
leakage.lowered(gaps, shifts).round(3)

# %% [markdown]
# The next table asks how well the features identify a person. A linear classifier learns the people
# of the test pairs on every other frame of their real videos. No detector of the design
# `identity` was trained on these people.

# %%
tested = designs[0][leak_splits.REFERENCE].query("split == 'test'").merge(pool.videos, on=KEY)
rows = pool.crops.frames
people = rows.group.isin(tested.group.unique()) & rows.manipulation.isin(["real", train_on])
view = pool.crops.select(people)
clean = {model: fitted[model][leak_splits.REFERENCE, 0].detector for model in models}
named = {model: leakage.naming(detector, view, bootstrap) for model, detector in clean.items()}
named = pd.concat(named, names=["model"]).reset_index("model")
named.set_index(["question", "model"]).loc[named.question.unique()].round(3)

# %% [markdown]
# ### Controls
#
# Nothing can be learnt where half of each class carries the other label in training. Only the
# design `identity` can be used for this control: a known video would be recognised with its swapped
# label.

# %%
reference = {fold: design[leak_splits.REFERENCE] for fold, design in designs.items()}
shuffled = {fold: negative_controls.shuffled(pool.crops, table, seed=seed + fold)
            for fold, table in reference.items()}
mixed = {fold: replace(pool, crops=crops) for fold, crops in shuffled.items()}
blank = {f"{model}, shuffled labels": {(leak_splits.REFERENCE, fold): mixed[fold].trial(
    models[model][0], table, seed=seed + fold, model=experiment.clip, describe=False,
    **models[model][1]) for fold, table in reference.items()}
    for model in ("linear probe", "LoRA")}

# %% [markdown]
# The next control trains the probe on the background alone: the face is covered with one colour,
# the same in all crops. What the detectors still find is the scene.

# %%
used = pd.concat(table for design in designs.values() for table in design.values())
used = used.drop(columns="split").drop_duplicates()
kept = pool.crops.frames.merge(used, how="left", indicator=True)._merge.eq("both").to_numpy()
margin = experiment.profile.crops.margin
faceless = replace(pool, crops=negative_controls.background(pool.crops.select(kept), margin))
blank["linear probe, background only"] = leakage.trials(
    faceless, designs, "probe", seed=seed, model=experiment.clip)

# %% [markdown]
# The last control uses the share of lost frames as the only feature, on all videos. The table lists
# all controls. Without a leak the interval should contain one half.

# %%
checks = [leakage.gaps(leakage.collect({name: trials}), fakes, bootstrap)
          for name, trials in blank.items() for fakes in both]
missing = negative_controls.missing(pool.crops.all_frames)
for fakes in both:
    rows = missing[missing.manipulation.isin(["real", fakes])]
    names = dict(model="lost frames only", fakes=fakes, design=leak_splits.REFERENCE)
    checks.append(pd.DataFrame([intervals.auc_row(rows, bootstrap) | names]))
checks = pd.concat(checks)[["model", "design", "fakes", "AUC", "low", "high"]]
holds = checks.low.le(0.5) & checks.high.ge(0.5)
checks = checks.assign(holds_half=holds, design=checks.design.map(splits.mark))
checks.set_index(["model", "design", "fakes"]).round(3)

# %% [markdown]
# The last experiment plants a leak. A small demo world is rendered twice. In the second version
# each scene carries a faint smooth pattern, added to the real video and subtracted from the fake.
# The pattern reveals the label to a detector that knows the scene, and nothing to any other. The
# fakes are almost invisible, so that little else can be learnt. The linear probe on whole crops is
# trained under the protocols `frame`, `video` and `identity`. The pattern must raise the AUC under
# the first and not under the last.

# %%
with run.timed("planted leak"):
    worlds = planted_worlds(experiment.profile, planted, identities=planted_people,
                            frames=2 * frames)
    cue = leakage.planted(worlds, ("frame", "video", "identity"), model=experiment.clip,
                          seeds=range(seed, seed + planted_seeds))
rise = leakage.gaps(leakage.collect(cue), "NeuralTextures", bootstrap, reference="cue off")
columns = ["AUC", "low", "high", "gap", "gap_low", "gap_high"]
rise.set_index(["model", "design"])[columns].round(3)

# %% [markdown]
# The intervals of the gap between the two versions support these statements:

# %%
display(Markdown(leakage.describe_planted(rise)))

# %% [markdown]
# The answer of this chapter is computed from these tables, and shown below its question.

# %%
run.answer(leakage.answer(gaps))

# %% [markdown]
# ## Limits
#
# The intervals draw test groups and keep the trained models fixed; the marks of the folds show that
# training again moves a gap too. Each design isolates one leak, while a random split mixes them. In
# the demo profile all videos come from one rendered world, and siblings are as alike as its
# renderer makes them.

# %% [markdown]
# ## Try it
#
# - More pairs and folds, narrower intervals: `dfnb run 05 -p folds 4`.
# - A fainter planted cue: `dfnb run 05 -p planted 8`. At which amplitude does the probe stop to find
#   it?
# - The other direction: `dfnb run 05 -p train_on NeuralTextures -p test_on FaceSwap`.

# %%
saved = {"gaps": gaps, "shifts": shifts, "naming": named, "controls": checks, "planted": rise,
         "protocol": protocol}
run.save({name: table.to_dict("records") for name, table in saved.items()}, scores=scores)
