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
# # 4. Ablations: what LoRA's settings do
#
# **Question** Do rank, alpha, dropout, the number of adapted blocks or the amount of training data
# change the result, and by more than chance does?

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import config
from dfnb.evaluation import ablations, plots, sweep_plots
from dfnb.evaluation.intervals import Bootstrap
from dfnb.runs import results
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
confidence = 0.95  # confidence level of the intervals
draws = 500  # random halves of the test groups in the estimate of the optimism

# %%
plots.style()
run = start("04_ablations", config.load(profile), globals())
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# Nothing is trained here. Sweeps ran chapter 3 many times with other settings, and this chapter
# reads what those runs saved. A run that is missing or failed stays a gap, and the table names the
# reason.

# %%
table = results.of_sweeps(profile, Bootstrap(confidence))
sweeps = {name: ablations.of_sweep(table, name) for name in results.ROLES}
grid, around, epochs_held, steps_held = sweeps.values()
gaps = table[table.state != "done"]
states = pd.DataFrame([{"sweep": name, **rows.state.value_counts()}
                       for name, rows in sweeps.items()])
states.set_index("sweep").fillna(0).astype(int)

# %% [markdown]
# The missing runs and the reasons:

# %%
left = gaps.groupby(["state", "why"]).agg(runs=("run", "size"), first=("run", "first"))
nothing = f"No run is missing: all {len(table)} runs of the profile's sweeps are done."
display(left if len(left) else Markdown(nothing))

# %% [markdown]
# The base setting of the sweeps is not that of chapter 3: where a run has to be cheap, fewer blocks
# are adapted at a larger learning rate. The two settings differ in:

# %%
base = results.base(profile)
base[base["chapter 3"] != base["sweeps"]]

# %% [markdown]
# ## Method
#
# The **grid** crosses rank, alpha and dropout on one draw of the split. **One factor at a time**
# starts from the base and changes one setting, on several draws. The **fraction** of the training
# videos, drawn by identity group, is changed twice: once with the number of epochs held, so that
# less data also means fewer gradient steps, and once with the number of steps held, so that only
# the data differ. Both may stop early on validation.
#
# Runs are not tested against each other one by one. One linear model takes the runs of the grid as
# replicates,
#
# $$ \mathrm{AUC} = a + b_1 \log_2 r + b_2 \log_2 \tfrac{\alpha}{r} +
# b_3\, \mathrm{dropout} + \varepsilon, $$
#
# where $\alpha / r$ is the factor before $B A x$. These runs share one draw of the split, so its
# effects hold **given these test videos**. The fractions were run on several draws: each draw has
# its own slope of the AUC over $\log_2$ of the fraction, and the interval is Student's over these
# slopes.

# %% [markdown]
# ## Result
#
# The maps show the whole grid: the video AUC on validation, which holds the manipulation of the
# training split, and on test, which holds one that was never trained on. The interval stands below
# each number.

# %%
sweep_plots.heat_maps(grid)
plt.show()

# %% [markdown]
# The runs share their test videos, so that the interval of one run says nothing about the
# difference of two. How alike two runs are is shown by the correlation of their logits within a
# class:

# %%
done = grid.dropna(subset=["test"])
alike = results.correlations(profile, grid)
for split in ablations.SPLITS:
    display(Markdown(f"- {split}: {len(done)} runs from {done[split].min():.3f} to "
                     f"{done[split].max():.3f}."))
display(Markdown(f"- Two runs' logits correlate by {alike['reals']:.2f} among the tested reals "
                 f"and by {alike['fakes']:.2f} among the fakes (means over pairs of runs)."))

# %% [markdown]
# All runs of the grid, the best on test first: measures of videos at the threshold from validation,
# and the number of trained values.

# %%
ablations.cells(grid).round(3)

# %% [markdown]
# A block adapted at q and v has $4 r d$ trained values, with $d$ the width of the encoder. The
# study reports the counts below, in millions, for its smallest and largest rank, and does not name
# its blocks. With ViT-B/16 ($d = 768$) and eight of its twelve blocks, the formula gives:

# %%
reported = {8: 0.20, 32: 0.77}
pd.DataFrame([{"rank": rank, "formula, million": 4 * rank * 768 * 8 / 1e6,
               "reported, million": count} for rank, count in reported.items()])

# %% [markdown]
# ### The run that validation chooses
#
# One run may be reported as the result: the one that is best on validation. Reporting the best run
# on test instead would present luck as skill. The size of that optimism is estimated by choosing on
# a random half of the test groups and evaluating on the other half.

# %%
pick = ablations.chosen(grid)
luck = results.optimism(profile, grid, Bootstrap(confidence, draws))
display(Markdown(ablations.verdict(grid, pick, luck)))

# %% [markdown]
# ### Eight rows, as the study shows them
#
# The study's table picks eight rows of its grid by their AUC on **test**. Our rows, picked by the
# same rules, stand beside the rows **reported on FF++**, which belong to other data and another
# CLIP. Since the rows were picked by their results, the first and the last of them say little.

# %%
ablations.beside_reported(grid).round(3)

# %% [markdown]
# ### One factor at a time
#
# Each point is one run, and lines join the runs of one draw of the split. Where the lines of one
# colour lie further apart than they rise or fall, the draw of the split matters more than the
# setting.

# %%
figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True)
for ax, name in zip(axes.flat, ["rank", "alpha", "dropout", "blocks"], strict=False):
    sweep_plots.factor(ablations.varying(around, name, base), name, ax)
sweep_plots.factor(epochs_held, "fraction", axes[1, 1], "fraction (epochs held)")
sweep_plots.factor(steps_held, "fraction", axes[1, 2], "fraction (steps held)")
axes[0, 0].legend(fontsize=8)
for ax in axes[:, 0]:
    ax.set_ylabel("video AUC")
figure.tight_layout()
plt.show()

# %% [markdown]
# The table gives the two rows of fractions as numbers: the mean over the draws, and the number of
# gradient steps.

# %%
ablations.fractions(epochs_held, steps_held).round(3)

# %% [markdown]
# How much the AUC changes when the number of training videos doubles, over the draws of the split:

# %%
data = pd.DataFrame([
    {"held": held, "split": split} | ablations.doubled_data(rows, split, confidence)
    for held, rows in (("epochs", epochs_held), ("steps", steps_held))
    for split in ablations.SPLITS])
data.set_index(["held", "split"]).drop(columns="reason").round(3)

# %% [markdown]
# ### Main effects
#
# The table holds the coefficients of the model for the grid, given its test videos: how much the
# AUC changes when rank or $\alpha / r$ doubles, or dropout grows. An interval that crosses zero
# leaves the sign open.

# %%
effects = {split: ablations.main_effects(grid, split, confidence) for split in ablations.SPLITS}
pd.concat(effects, axis=1).round(4)

# %% [markdown]
# The figure shows the same coefficients.

# %%
figure, ax = plt.subplots(figsize=(7, 3))
sweep_plots.effects(effects, ax)
plt.show()

# %% [markdown]
# ### Parameters, over-fitting and cost
#
# The left figure plots the AUC on test against the number of trained values. The right figure plots
# the AUC on validation against the AUC on the training frames at the epoch that was kept: points
# far below the diagonal are runs that memorised the training split.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
sweep_plots.scatter(table, "trainable", "test", axes[0], by="blocks",
                    labels=("trained values", "test AUC (videos)"))
axes[0].xaxis.set_major_formatter("{x:,.0f}")
sweep_plots.scatter(table, "train_frames", "validation_frames", axes[1], by="fraction",
                    labels=("training AUC (frames)", "validation AUC (frames)"))
axes[1].axline((1, 1), slope=1, color=plots.INK, ls=":", lw=1)
figure.tight_layout()
plt.show()

# %% [markdown]
# The table gives the cost of a run on this machine: seconds of processor time, including the
# loading of CLIP and the drawing of the page, and the largest memory (MB) of the process. Only this
# table changes between repetitions.

# %% tags=["nbval-ignore-output"]
costs = {"trainable": "first", "seconds": "median", "memory": "median"}
table.groupby(["blocks", "rank"])[list(costs)].agg(costs).round(1)

# %% [markdown]
# The answer of this chapter is computed from these tables, and shown below its question.

# %%
run.answer(ablations.answer(effects, data))

# %% [markdown]
# ## Limits
#
# The runs of a grid share one draw of the split, so the intervals of the main effects do not cover
# the choice of test people. A cheap base setting may hide what a larger one would show: where few
# blocks are adapted, rank has little influence. And a linear model sees only effects that rise or
# fall along the whole range. The runs use the study's split, whose test fakes show scenes of the
# training split.

# %% [markdown]
# ## Try it
#
# - Which runs are planned, and which are done: `dfnb sweep --profile demo --dry-run`.
# - One run with another rank and alpha on another draw of the split, otherwise as in chapter 3:
#   `dfnb run 03 -p rank 32 -p alpha 16 -p split_seed 3 -p repeats 1 -p fold_draws 0`.
# - Add `seeds: [0, 1]` to the sweep `grid` in `params/demo.yaml` and run `dfnb study` again. Do the
#   effects keep their signs with the test people of two draws? (Maps and optimism show the first.)

# %%
changing = ["seconds", "memory"]
run.save({
    "chosen": None if pick is None else pick.drop(changing).to_dict(), "optimism": luck,
    "effects": {split: rows.reset_index().to_dict("records")
                for split, rows in effects.items()},
    "data": data.to_dict("records"), "correlations": alike,
    "runs": table.drop(columns=[*changing, "why"]).to_dict("records")})
