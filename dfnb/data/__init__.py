"""Turn a corpus of videos into face crops and splits: a folder comes in, tables and crops go out.

Open `layouts.py` first: it finds the videos of a corpus, and `corpora.py` chooses among them.
`video.py`, `decoder.py` and `faces.py` lead from a file to boxes of faces, `crops.py` to crops with
a cache. `identity.py` joins videos of one person, `splits.py` decides which train, validate and
test. `leak_splits.py`, `perturbations.py` and `negative_controls.py` change splits or crops.
"""
