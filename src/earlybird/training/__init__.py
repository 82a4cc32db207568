"""The one training loop, its state and its checkpoints. Import from the modules: importing this loads no torch."""
