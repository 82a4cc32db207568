"""Figures and tables of finished runs. Reads `record.json` files only; never imports torch.

Import from the modules: `table` must stay readable without importing matplotlib.
"""
