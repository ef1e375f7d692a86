"""`make bench`: how fast the study is, against the plain way of doing the same, and against what the machine can do.

Not a part of the package: nothing in `dfnb` imports it, and the plain recipes live only here.
"""
