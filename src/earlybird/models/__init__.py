"""Networks by name: the paper's CIFAR networks, torchvision's, timm's and the user's own (`catalog.py`)."""

from earlybird.models.catalog import build_model, check_model_name, model_names
from earlybird.models.cifar import VGG, PreResNet, ResNet
from earlybird.models.model_file import load, save

__all__ = ["VGG", "PreResNet", "ResNet", "build_model", "check_model_name", "load", "model_names", "save"]
