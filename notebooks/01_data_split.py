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
# # 1. The videos, their faces, and the split
#
# **Question** Which videos does the study train and test on, and what does a detector see of them?

# %%
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from dfnb.data import identity, splits
from dfnb.evaluation import plots
from dfnb.experiment import Experiment
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
split_seed = 0  # seed of the split
train_on = "FaceSwap"  # manipulation in training and validation
test_on = "NeuralTextures"  # manipulation in the test part, never trained on
protocol = "study"  # "study", "identity", "official" (the lists of the profile), ...
shown = 8  # identities in the picture; 0 shows no face

# %%
plots.style()
experiment = Experiment.open(profile)
split_table = experiment.split(protocol, seed=split_seed, train_manipulation=train_on,
                               test_manipulations=[test_on])
run = start("01_data_split", experiment.profile, globals())
display(Markdown(f"{run.stamp()} Split: {splits.mark(protocol)}."))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# A FaceForensics++ corpus is a folder of mp4 files. A real video has a number; a fake is named
# `target_source`: the target's scene, and either the source's face (FaceSwap) or the source's mouth
# movements (NeuralTextures). The table counts the videos, and the identity groups that they form
# when every target and source that occur together are joined.

# %%
summary = experiment.videos.groupby("manipulation", sort=False).agg(
    videos=("video", "size"), groups=("group", "nunique"),
    first=("video", "first"), last=("video", "last"))
summary

# %% [markdown]
# Each column below is one person: the real video, the same scene with a swapped face, and the same
# person with another one's mouth movements. Where the profile has more manipulations, they follow;
# only chapter 6 tests them. A detector sees only these crops.

# %%
reals = experiment.videos[experiment.videos.label == 0].video.head(shown)
first = experiment.crops.frames.groupby(["manipulation", "target"], sort=False).head(1)
first = first[first.target.isin(reals)]
rows = {manipulation: experiment.crops.select(crops.index).images()
        for manipulation, crops in first.groupby("manipulation", sort=False)}
if shown:
    plots.gallery(rows, columns=list(reals))
    plt.show()

# %% [markdown]
# ## Method
#
# Frames are taken evenly from the whole clip. dlib's HOG detector finds faces; one track per clip
# follows the face that stays. Its smoothed box is made square and enlarged by the margin, as the
# FaceForensics++ baseline does {cite}`roessler2019`. A frame without a usable face stays in the
# table with the reason. Losses are counted by class, because a detector could learn from what is
# missing.

# %%
losses = experiment.crops.losses()
losses.set_index(["manipulation", "status"]).round(4)

# %% [markdown]
# The detector is trained and validated on one manipulation and tested on another one. The protocol
# `study` splits each class separately: most of the real videos and of the training manipulation are
# for training, some for validation. The remaining real videos and all videos of the unseen
# manipulation are for testing. `official` follows the lists that come with FaceForensics++
# {cite}`roessler2019`, in which a pair of ids and its fakes share a split; `identity` draws such
# splits at random. All frames of a video stay in one split.

# %% [markdown]
# ## Result
#
# The table counts the videos and frames of each split, by class.

# %%
placed = experiment.crops.frames.merge(split_table, on=list(split_table.columns.drop("split")))
order = ["train", "validation", "test"]
counts = placed.groupby(["split", "manipulation"], sort=False).agg(
    videos=("video", "nunique"), frames=("frame", "size"))
per_part = counts.videos.unstack(fill_value=0).reindex(
    index=order, columns=placed.manipulation.unique())
counts.unstack(fill_value=0).reindex(order)

# %% [markdown]
# The figure shows the same counts. The test split holds many fakes and few reals, which is why
# accuracy and F1 say little there.

# %%
figure, ax = plt.subplots(figsize=(7, 2))
plots.split_counts(per_part, ax)
plt.show()

# %% [markdown]
# A split by video keeps frames apart, but not people or scenes. For each class of the test split,
# the audit below counts the share of videos of which something was seen in training, and with which
# label. It looks for the scene (the target of the video), for the face that the video shows, for a
# video of the same pair, and for any member of the identity group.

# %%
audit = identity.audit(split_table, experiment.videos,
                       groups=experiment.videos.group).set_index(["manipulation", "leak"])
audit.round(3)

# %% [markdown]
# In words, for the scene, which decides most about the background of a crop:

# %%
leaks = identity.describe(audit.reset_index(), "scene")
display(Markdown(leaks))

# %% [markdown]
# The answer of this chapter is computed from these tables, and shown below its question.

# %%
kinds = {split: ", ".join(f"{count} {name}" for name, count in row.items() if count)
         for split, row in per_part.iterrows()}
run.answer(f"Training: {kinds['train']} videos. Validation: {kinds['validation']}. Test: "
           f"{kinds['test']}. A detector sees square face crops and nothing else. "
           + leaks.replace("\n", " ").replace("- ", ""))

# %% [markdown]
# ## Limits
#
# The protocol `study` is that of the study that is reproduced here. It says that its split by video
# keeps every person in one part; the audit shows that this does not hold for its fakes. Chapters 2
# and 3 therefore put the identity-disjoint protocol `cross` first, and repeat the study's split over
# several seeds, because results on few real test videos differ a great deal from draw to draw.

# %% [markdown]
# ## Try it
#
# - Audit another protocol: `dfnb run 01 -p protocol identity`, or `target`, or `video`. Which rows of
#   the audit become zero?
# - Draw the study's split again: `dfnb run 01 -p split_seed 3`.
# - Look at your own copy of a corpus: `dfnb corpus FOLDER`.

# %%
run.save({"videos": summary.videos.to_dict(), "losses": losses.to_dict("records"),
          "splits": {split: row.to_dict() for split, row in per_part.iterrows()},
          "audit": audit.reset_index().to_dict("records")}, split_table=split_table)
