"""Turn scores into metrics, intervals, tables and figures; no model is needed here.

A table of scores comes in (`score_files.py` reads that of any detector), reports and figures go
out. Open `metrics.py` and `intervals.py` first, then `report.py`. `ablations.py`, `leakage.py` and
`method_comparison.py` hold the computations of chapters 4, 5 and 6. Labels: fake is 1, real is 0.
"""
