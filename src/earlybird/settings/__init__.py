"""Every setting of a run, in frozen dataclasses of plain values; nothing here loads torch. Import from the modules."""
