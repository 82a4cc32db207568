"""One run: configuration, run folder, record, and `run`, which trains to the record.

Import from the modules: `config` must stay readable without importing torch.
"""
