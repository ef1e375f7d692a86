"""A viewer for JupyterLab: choose or upload a video, and look at its faces one by one."""

import io
import tempfile
from pathlib import Path

import ipywidgets as widgets

from dfnb import UserError
from dfnb.detectors import Detector
from dfnb.evaluation import plots
from dfnb.predict import videos


def build(detector: Detector, verdict: videos.Verdict) -> widgets.VBox:
    """Return the viewer with the verdict on a first video.

    Another video is scored when its path is entered or when it is uploaded.
    """
    path = widgets.Text(value=str(verdict.path), description="file", continuous_update=False,
                        layout={"width": "60%"})
    suffixes = ",".join(sorted(videos.SUFFIXES))
    upload = widgets.FileUpload(accept=suffixes, description="or upload")
    message, body = widgets.HTML(), widgets.VBox(faces(verdict))

    def show(file: Path) -> None:
        message.value, body.children = f"scoring {file.name}", ()
        try:
            shown = videos.score(detector, videos.find([file])[:1], progress=False)[0]
        except UserError as error:
            message.value = str(error)
            return
        message.value, body.children = "<br>".join(shown.sentences()), faces(shown)

    def show_uploaded(change: dict) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            for item in change["new"]:
                file = Path(scratch) / Path(item["name"]).name
                file.write_bytes(item["content"])
                show(file)

    path.observe(lambda change: show(Path(change["new"]).expanduser()), names="value")
    upload.observe(show_uploaded, names="value")
    return widgets.VBox([widgets.HBox([path, upload]), message, body])


def faces(verdict: videos.Verdict) -> tuple[widgets.Widget, ...]:
    """Return a slider over the faces of a verdict and the picture of one; nothing without faces."""
    if verdict.reason:
        return ()
    kept = verdict.frames[verdict.frames.score.notna()]
    images, highest = verdict.view.images(), verdict.maps.max()
    slider = widgets.IntSlider(min=0, max=len(kept) - 1, description="face",
                               continuous_update=False)
    picture = widgets.Image(format="png")

    def draw(change: dict | None = None) -> None:
        at, content = slider.value, io.BytesIO()
        figure = plots.face(images[at], verdict.maps[at], kept.iloc[at], highest=highest)
        figure.savefig(content, format="png")
        picture.value = content.getvalue()

    slider.observe(draw, names="value")
    draw()
    return slider, picture
