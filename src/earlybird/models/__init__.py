"""Networks to train: the paper's CIFAR nets, and everything that a name can reach (`catalog.py`)."""

from earlybird.models.catalog import build_model, check_model_name, model_names
from earlybird.models.preresnet import PreResNet
from earlybird.models.vgg import VGG

__all__ = ["VGG", "PreResNet", "build_model", "check_model_name", "model_names"]
