"""Many runs: the grid, its run nodes, the workers that do them, and runs at equal cost. Import from the modules."""
