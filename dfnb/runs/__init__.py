"""Execute notebooks as runs that survive crashes: a profile comes in, runs and a book go out.

Open `run.py` first: a notebook opens its run there. `state.py` says what a run folder holds,
`configuration.py` and `fingerprint.py` what a result depends on, `study.py` executes chapters,
`grid.py` and `sweep.py` many runs side by side, `results.py` reads what finished runs saved.
"""
