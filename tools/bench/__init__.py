"""Measure how fast the study is against the plain way and against the machine (`make bench`).

Not a part of the package: nothing in `dfnb` imports it, and the plain recipes live only here.
"""
