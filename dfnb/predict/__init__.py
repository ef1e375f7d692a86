"""Use a saved detector: videos and a run's folder come in, verdicts, pictures and exports go out.

Open `videos.py` first: it loads a detector, scores videos and writes the tables and pictures of
`dfnb score`. `export.py` writes a detector that works without dfnb; `widget.py` is the viewer of
chapter 7 in JupyterLab.
"""
