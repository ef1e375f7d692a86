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
# **Question** Do rank, alpha, dropout, the number of adapted blocks or the amount of training data move the result, and by more than chance does?
#
# **Answer** In the demo world alpha and dropout have no effect of a sure sign on test, and a rank twice as large has a small one that validation does not show. The cells of the grid
# lie closer together than the interval of a cell is wide (median). Taking the best cell on test would have flattered the result. More training data helps on validation; on test the
# gain is sure where the gradient steps are held, and not where the epochs are.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import config
from dfnb.evaluation import ablations, plots, sweep_plots
from dfnb.runs import results
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
confidence = 0.95  # confidence level of the intervals
draws = 500  # random halves of the test groups in the estimate of the optimism

# %%
plots.style()
run = start("04_ablations", config.load(profile), dict(confidence=confidence, draws=draws))
display(Markdown(run.stamp()))

# %% [markdown]
# ## Data
#
# Nothing is trained here. Chapter 3 was run again and again with other settings, in sweeps; this chapter reads what those runs saved. A run that is missing
# or failed stays a gap, and the reason is told.

# %%
table = results.of_sweeps(profile, confidence)
sweeps = {name: ablations.of(table, name) for name in results.ROLES}
grid, around, epochs_held, steps_held = sweeps.values()
gaps = table[table.state != "done"]
pd.DataFrame([{"sweep": name, **rows.state.value_counts()} for name, rows in sweeps.items()]).set_index("sweep").fillna(0).astype(int)

# %% [markdown]
# What is missing, and why:

# %%
told = gaps.groupby(["state", "why"]).agg(runs=("run", "size"), first=("run", "first"))
display(told if len(told) else Markdown(f"Nothing: all {len(table)} runs of the profile's sweeps are done."))

# %% [markdown]
# The setting around which all of them turn is not chapter 3's: where a run has to be cheap, fewer blocks are adapted at a larger learning rate. The two differ in:

# %%
base = results.base(profile)
base[base["chapter 3"] != base["sweeps"]]

# %% [markdown]
# ## Method
#
# The **grid** crosses rank, alpha and dropout on one draw of the split. **One factor at a time** starts from the base and changes one setting, on several draws. The
# **fraction** of the training videos, drawn by identity group, is changed twice: once with the number of epochs held, so that less data also means fewer gradient
# steps, and once with the number of steps held, so that only the data differ. Either may stop early on validation.
#
# Cells are not tested against each other one by one. One linear model takes all runs as replicates,
#
# $$ \mathrm{AUC} = a_{\mathrm{split}} + b_1 \log_2 r + b_2 \log_2 \tfrac{\alpha}{r} + b_3\, \mathrm{dropout} + b_4 \log_2 \mathrm{fraction} + \varepsilon, $$
#
# with the fraction once for each of the two ways, and an intercept for every draw of the split. $\alpha / r$ is the factor before $B A x$.

# %% [markdown]
# ## Result
#
# The whole grid: the AUC of videos on validation, which holds the manipulation of the training part, and on test, which holds one never trained on. Below each number its
# interval.

# %%
sweep_plots.heat_maps(grid)
plt.show()

# %% [markdown]
# How far do the cells lie apart, and how wide is the interval of one?

# %%
done = grid.dropna(subset=["test"])
for split in ablations.SPLITS:
    width = (done[f"{split}_high"] - done[f"{split}_low"]).median()
    display(Markdown(f"- {split}: {len(done)} cells from {done[split].min():.3f} to {done[split].max():.3f}; the interval of a "
                     f"cell is {width:.3f} wide (median)."))

# %% [markdown]
# ### The cell that validation chooses
#
# One cell may be reported as the result: the one that is best on validation. Taking the best on test instead reports luck as skill; by how much, is estimated by choosing
# on a random half of the test groups and looking at the other half.

# %%
pick = ablations.chosen(grid)
luck = results.optimism(profile, grid, draws=draws)
display(Markdown(ablations.verdict(grid, pick, luck)))

# %% [markdown]
# ### Eight rows, as the study shows them
#
# The study's table picks eight rows of its grid by their AUC on **test**. By the same rules ours are beside the rows **reported on FF++**, which belong to other data and another CLIP. As
# the rows were picked by what they show, the first and last of them say little.

# %%
ablations.beside_reported(grid).round(3)

# %% [markdown]
# ### One factor at a time
#
# Each point is one run, and the runs of one draw of the split are joined. Where the lines of one colour lie apart by more than they rise or fall, the draw of the split matters
# more than the setting.

# %%
figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), sharey=True)
for ax, name in zip(axes.flat, ["rank", "alpha", "dropout", "blocks"], strict=False):
    sweep_plots.factor(ablations.along(around, name, base), name, ax)
sweep_plots.factor(epochs_held, "fraction", axes[1, 1], "fraction (epochs held)")
sweep_plots.factor(steps_held, "fraction", axes[1, 2], "fraction (steps held)")
axes[0, 0].legend(fontsize=8)
for ax in axes[:, 0]:
    ax.set_ylabel("video AUC")
figure.tight_layout()
plt.show()

# %% [markdown]
# The two rows of fractions as numbers: the mean over the draws, and the number of gradient steps.

# %%
ablations.fractions(epochs_held, steps_held).round(3)

# %% [markdown]
# In words:

# %%
display(Markdown(ablations.held(epochs_held, steps_held)))

# %% [markdown]
# ### Main effects
#
# The model's coefficients: how much the AUC changes when rank or $\alpha / r$ doubles, dropout grows, or the training part doubles. An interval that crosses zero leaves the sign
# open.

# %%
same = table[table.blocks == base["sweeps"]["blocks"]]
effects = {split: ablations.main_effects(same, split, confidence) for split in ablations.SPLITS}
pd.concat(effects, axis=1).round(4)

# %% [markdown]
# The same as a picture.

# %%
figure, ax = plt.subplots(figsize=(7, 3))
sweep_plots.effects(effects, ax)
plt.show()

# %% [markdown]
# ### Parameters, over-fitting and cost
#
# On the left, the AUC on test against the number of trained values. On the right, how well the training frames were known at the epoch kept, against validation:
# points far below the diagonal have learnt their part by heart.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
sweep_plots.scatter(table, "trainable", "test", axes[0], by="blocks", labels=("trained values", "test AUC (videos)"))
axes[0].xaxis.set_major_formatter("{x:,.0f}")
sweep_plots.scatter(table, "train_frames", "validation_frames", axes[1], by="fraction",
                    labels=("training AUC (frames)", "validation AUC (frames)"))
axes[1].axline((1, 1), slope=1, color=plots.INK, ls=":", lw=1)
figure.tight_layout()
plt.show()

# %% [markdown]
# What a run costs on this machine: seconds of processor time, with the loading of CLIP and the drawing of its page, and the largest memory (MB) of its process.
# Only this table changes from time to time.

# %% tags=["nbval-ignore-output"]
table.groupby(["blocks", "rank"])[["trainable", "seconds", "memory"]].agg({"trainable": "first", "seconds": "median", "memory": "median"}).round(1)

# %% [markdown]
# ## Limits
#
# The runs of a grid share one draw of the split: its test videos are the same in every cell, and the intervals of the main effects do not cover that other people could have been
# tested. A cheap base may hide what a larger one would show: where little is adapted, rank has little to do. And a linear model sees only what rises or falls along the whole row.

# %%
run.save({"chosen": None if pick is None else pick.drop(["seconds", "memory"]).to_dict(), "optimism": luck,
          "effects": {split: rows.reset_index().to_dict("records") for split, rows in effects.items()},
          "runs": table.drop(columns=["seconds", "memory", "why"]).to_dict("records")})
