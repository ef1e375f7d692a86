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
# # 7. Your own video
#
# **Question** What does the detector of chapter 3 say about one video, where does it look, and is
# the video like those it was trained on?

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from dfnb import KEY
from dfnb.evaluation import plots, training_domain
from dfnb.experiment import Experiment
from dfnb.predict import videos
from dfnb.runs import results
from dfnb.runs.run import start

# %% tags=["parameters"]
profile = "demo"  # name of a file in params/
video = ""  # path of a video file; empty takes the first fake of the detector's test part
shown = 4  # most and least suspicious crops to show; 0 shows no face
interactive = False  # in JupyterLab: choose or upload a video, look at it frame by frame

# %%
plots.style()
experiment = Experiment.open(profile)
run = start("07_your_own_video", experiment.profile, globals())
trained = results.result(profile, "03_lora_training")
display(Markdown(run.stamp()))

# %% tags=["nbval-ignore-output"]
run.answer()

# %% [markdown]
# ## Data
#
# The data are one video file. Where the parameter `video` is empty, it is a fake of the test split,
# which played no role in training or in any choice.

# %%
detector = videos.load(trained.folder)
tested = trained.scores.query(
    "split == 'test' and split_seed == @detector.metadata['split_seed'] and label == 1")
first = tested.merge(experiment.videos[[*KEY, "path"]], on=KEY).path.iloc[0]
file = Path(video).expanduser() if video else Path(first)
display(Markdown(f"The video: `{file.name}`. {videos.caveat(detector.metadata)}"))

# %% [markdown]
# ## Method
#
# The file is treated as the training videos were: frames are taken evenly, the face is found and
# cut out with the same margin, each crop is scored, and the scores are averaged. A video is called
# fake when its score reaches the threshold that was chosen on validation and saved with the
# detector. With $A$ the attention of a block and $G$ the gradient of the logit with respect to it,
# a patch is as relevant as what
#
# $$ R = \prod_{\text{blocks}} \left(1 + \operatorname{mean}_{\text{heads}} (A \odot G)^+\right) $$
#
# carries from it to the class token (Chefer et al., ICCV 2021). How far its faces lie from the
# training faces is a Mahalanobis distance of frozen CLIP features (Lee et al., NeurIPS 2018),
# expressed as the share of validation videos that lie as far.

# %%
verdict = videos.score(detector, [file])[0]

# %% [markdown]
# ## Result
#
# The picture shows the verdict, the scores over time, and the crops with a map of where the
# detector looked. `dfnb score` writes the same picture.

# %%
display(Markdown("\n".join(f"- {sentence}" for sentence in verdict.sentences())))
if not verdict.reason:
    videos.picture(verdict, detector.metadata, shown)
    plt.show()

# %% [markdown]
# The table compares the video with the training videos, trait by trait. A trait outside of the
# range is a reason not to believe the score; a trait inside of it is no reason to believe it.

# %%
beside = pd.DataFrame(detector.metadata["domain"]["ranges"],
                      index=["training, lowest", "training, highest"]).T
traits = {name: verdict.traits.get(name) for name in training_domain.RANGES}
own = pd.Series(traits, dtype=float)
beside.insert(0, "this video", own)
names = {"side": "short side, pixels", "face": "face, pixels", "bits": "bits per pixel"}
display(beside.rename(index=names).round(3))
if not verdict.reason:
    display(Markdown(f"Of the validation videos, {verdict.traits['farther']:.0%} lie at "
                     "least as far from the training faces as this one."))

# %% [markdown]
# In JupyterLab, `interactive = True` shows a viewer: it takes another video by path or upload, and
# a slider moves over its frames.

# %%
if interactive:
    from dfnb.predict import widget

    display(widget.build(detector, verdict))

# %% [markdown]
# The answer of this chapter is computed from the verdict, and shown below its question.

# %%
run.answer(f"The video is {'; '.join(verdict.sentences())}.")

# %% [markdown]
# ## Limits
#
# One score does not say how often such scores are wrong; chapter 3 and the summary do. The map shows where
# the detector looks, not what was manipulated; and a detector that looks at the right place may
# still be wrong.

# %% [markdown]
# ## Try it
#
# - A video of your own: `dfnb run 07 -p video clip.mp4`, or `dfnb score clip.mp4 --run FOLDER`.
# - In JupyterLab (`make lab`): set `interactive = True` and move through the frames.
# - Compress a video strongly (`ffmpeg -i clip.mp4 -crf 40 worse.mp4`) and score it again. Which
#   warnings appear?

# %%
saved = {name: getattr(verdict, name)
         for name in ("called", "threshold", "reason", "traits", "warnings")}
run.save(saved | {"score": None if verdict.reason else verdict.score}, frames=verdict.frames)
