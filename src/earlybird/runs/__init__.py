"""One run: folder, record, and `run`, which trains to the record. Import from the modules: not all load torch."""
