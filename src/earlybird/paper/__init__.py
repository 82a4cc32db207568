"""Totals of training FLOPs in You et al. (2020), recomputed beside the printed ones (`docs/paper-flops.md`).

`claims.csv` holds every number as published and how it is derived, `findings.json` how to read the tables and where
the paper disagrees with itself. `claims` reads them, counts and sums; a file for each table and figure recomputes it.
"""
