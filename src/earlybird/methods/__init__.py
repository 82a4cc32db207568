"""Ways to find and train a network, one file each, and the pipeline they share.

A method is a frozen dataclass whose fields are its hyperparameters, with `search(task, resume) -> Candidate`. Import
from the modules: their dataclasses must stay readable without importing torch.
"""
