"""A small panel for JupyterLab: choose or upload a video, and look at its faces one by one. For people, not for reports."""

import io
import tempfile
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from dfnb import UserError
from dfnb.detectors import Detector
from dfnb.evaluation import plots
from dfnb.predict import videos


def build(detector: Detector, verdict: videos.Verdict) -> widgets.VBox:
    """The panel, with the verdict on a first video; another one is scored when its path is entered or it is uploaded."""
    path = widgets.Text(value=str(verdict.path), description="file", continuous_update=False, layout={"width": "60%"})
    upload = widgets.FileUpload(accept=",".join(sorted(videos.SUFFIXES)), description="or upload")
    message, body = widgets.HTML(), widgets.VBox(faces(verdict))

    def show(file: Path) -> None:
        message.value, body.children = f"scoring {file.name}", ()
        try:
            found = videos.score(detector, videos.find([file])[:1], progress=False)[0]
        except UserError as error:
            message.value = str(error)
            return
        message.value, body.children = "<br>".join(found.sentences()), faces(found)

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
    """A slider over the faces of a verdict and a picture of the one it stands at; nothing where no face was found."""
    if verdict.reason:
        return ()
    kept = verdict.frames[verdict.frames.score.notna()]
    images, highest, picture = verdict.view.images(), verdict.maps.max(), widgets.Image(format="png")
    slider = widgets.IntSlider(min=0, max=len(kept) - 1, description="face", continuous_update=False)

    def draw(change: dict | None = None) -> None:
        at = slider.value
        picture.value = _png(plots.face(images[at], verdict.maps[at], kept.iloc[at], highest=highest))

    slider.observe(draw, names="value")
    draw()
    return slider, picture


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
