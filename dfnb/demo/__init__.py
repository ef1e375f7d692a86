"""The embedded demo world: it renders people, their videos and manipulated versions of them.

A seed and a number of people come in; mp4 files in the layout of FaceForensics++ go out. Open
`corpus.py` first: it writes a corpus. `people.py` draws a person, `render.py` films one, and
`swap.py`, `learned.py` and `reenact.py` manipulate videos. `tiny-clip/` holds the weights of a
small CLIP that was trained on other such people (by `tools/tiny_clip`).
"""
