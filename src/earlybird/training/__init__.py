"""The one training loop, its state and its checkpoints.

Import from the modules: `settings` must stay readable without importing torch, so nothing is re-exported here.
"""
