"""Run folders: configuration, the folder itself, the record, and the one function that fills them.

Import from the modules: `config` must stay readable without importing torch.
"""
