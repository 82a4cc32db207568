"""The one training loop and what it stands on.

Import from the modules: `settings` must stay readable without importing torch, so nothing is re-exported here.
"""
