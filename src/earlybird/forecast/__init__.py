"""Prices of a run or a grid before it is run. Import from the modules."""
