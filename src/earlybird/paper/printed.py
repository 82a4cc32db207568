"""The numbers of You et al. (2020) that this package recomputes, as the paper prints them: Tables 2, 3 and some claims.

Nothing here is a result of ours, and only what the recomputation reads is here. Energies of Table 2 are in kilojoules,
totals of training in PFLOPs (10^15 FLOPs), accuracies in percent, ratios in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

METHODS = (
    "lottery_ticket",
    "snip",
    "network_slimming",
    "thinet",
    "early_bird_reinit",
    "early_bird_ff",
    "early_bird_lf",
    "early_bird_ll",
)
BASELINES = METHODS[:4]


@dataclass(frozen=True)
class PrintedSetting:
    """One network, data set and pruning ratio of Table 2; each tuple runs over `METHODS`."""

    model: str
    dataset: str
    prune_ratio: float
    accuracies: tuple[float, ...]
    kilojoules: tuple[float, ...]
    petaflops: tuple[float, ...]

    def accuracy_percent(self, method: str) -> float:
        """Accuracy after retraining."""
        return self.accuracies[METHODS.index(method)]

    def energy_kilojoules(self, method: str) -> float:
        """Energy of the whole training; measured, but estimated for `early_bird_ll`."""
        return self.kilojoules[METHODS.index(method)]

    def total_petaflops(self, method: str) -> float:
        """FLOPs of the whole training, search included."""
        return self.petaflops[METHODS.index(method)]


@dataclass(frozen=True)
class PrintedRow:
    """One row of Table 3: ImageNet, 90 epochs; `top1_improvement` is None for the unpruned network."""

    model: str
    method: str
    prune_ratio: float | None
    total_petaflops: float
    top1_percent: float
    top1_improvement: float | None


# Claims of the text, outside the tables.
MOST_ENERGY_SAVED = 10.7  # abstract: times less than the most competitive method
VGG16_CIFAR10_ENERGY_SAVED = 6.6  # Table 2, improvement of VGG16 on CIFAR-10 at p = 0.3
MOST_ACCURACY_GAINED = 2.38  # Section 4.3: percentage points
FIRST_STEP_PERCENT = 75.0  # Section 4.1: share of the first step, PreResNet101 on CIFAR-10
FIGURE5_REDUCTIONS = (2.2, 2.4)  # Section 4.3: times fewer FLOPs than progressive pruning and training
MOST_OVERHEAD_PERCENT = 0.026  # Section 4.3: FLOPs of the mask distance

TABLE2 = (
    PrintedSetting(
        "preresnet101",
        "cifar10",
        0.3,
        (93.7, 93.76, 93.83, 93.39, 93.88, 93.91, 93.48, 93.24),
        (6322, 3161, 5270, 3579, 2817, 2370, 2265, 489.4),
        (14.9, 7.4, 13.9, 13.2, 7.75, 6.5, 6.45, 6.45),
    ),
    PrintedSetting(
        "preresnet101",
        "cifar10",
        0.5,
        (93.21, 93.31, 93.42, 93.07, 93.29, 93.9, 93.31, 92.85),
        (6322, 3161, 4641, 2656, 2382, 1970, 1667, 410.9),
        (14.9, 7.4, 12.7, 10.6, 7.05, 5.7, 5.39, 5.39),
    ),
    PrintedSetting(
        "preresnet101",
        "cifar10",
        0.7,
        (92.78, 92.76, 92.49, 91.42, 92.39, 92.49, 92.24, 92.12),
        (6322, 3161, 4211, 1901, 1565, 1452, 1338, 281.8),
        (14.9, 7.4, 11.0, 8.65, 3.77, 3.5, 3.44, 3.44),
    ),
    PrintedSetting(
        "vgg16",
        "cifar10",
        0.3,
        (93.18, 93.2, 93.05, 92.82, 93.11, 93.39, 93.2, 93.25),
        (746.2, 373.1, 617.1, 298.0, 290.4, 256.4, 250.1, 56.1),
        (30.3, 15.1, 27.4, 22.6, 14.4, 12.7, 12.8, 12.8),
    ),
    PrintedSetting(
        "vgg16",
        "cifar10",
        0.5,
        (93.25, 92.71, 92.96, 91.92, 93.23, 93.26, 93.19, 93.13),
        (746.2, 373.1, 590.7, 383.9, 237.3, 213.4, 199.4, 43.1),
        (30.3, 15.1, 25.7, 19.0, 12.0, 10.8, 10.7, 10.7),
    ),
    PrintedSetting(
        "vgg16",
        "cifar10",
        0.7,
        (93.28, 92.3, 92.7, 90.4, 92.71, 92.71, 92.91, 92.6),
        (746.2, 373.1, 553.8, 380.1, 200.5, 184.2, 170.3, 36.5),
        (30.3, 15.1, 23.8, 16.6, 9.45, 9.85, 8.51, 8.51),
    ),
    PrintedSetting(
        "preresnet101",
        "cifar100",
        0.3,
        (71.9, 72.34, 72.8, 73.1, 73.23, 73.52, 73.41, 73.04),
        (6095, 3047, 4851, 3603, 2413, 2020, 2038, 434.4),
        (14.9, 7.4, 13.7, 13.2, 7.35, 6.4, 6.42, 6.42),
    ),
    PrintedSetting(
        "preresnet101",
        "cifar100",
        0.5,
        (71.6, 71.63, 71.52, 70.92, 73.36, 73.15, 73.02, 71.82),
        (6095, 3047, 4310, 2642, 2016, 1769, 1614, 366.5),
        (14.9, 7.4, 12.5, 10.6, 6.25, 5.45, 5.45, 5.45),
    ),
    PrintedSetting(
        "preresnet101",
        "cifar100",
        0.7,
        (69.95, 70.01, 68.46, 67.29, 71.05, 72.29, 70.72, 69.45),
        (6095, 3047, 3993, 1893, 1392, 1294, 1171, 247.3),
        (14.9, 7.4, 10.3, 8.65, 3.53, 3.28, 2.99, 2.99),
    ),
    PrintedSetting(
        "vgg16",
        "cifar100",
        0.1,
        (72.62, 71.55, 71.24, 70.83, 71.65, 71.81, 71.6, 71.34),
        (741.2, 370.6, 636.5, 632.2, 345.3, 287.7, 270.5, 54.6),
        (30.3, 15.1, 29.3, 27.4, 16.3, 14.1, 14.0, 14.0),
    ),
    PrintedSetting(
        "vgg16",
        "cifar100",
        0.3,
        (71.31, 70.83, 71.28, 69.57, 71.48, 72.17, 71.5, 70.53),
        (741.2, 370.6, 592.3, 568.5, 300.0, 262.2, 262.7, 64.4),
        (30.3, 15.1, 27.1, 22.6, 13.7, 12.2, 12.8, 12.8),
    ),
    PrintedSetting(
        "vgg16",
        "cifar100",
        0.5,
        (70.96, 70.35, 69.74, 67.22, 69.66, 71.28, 70.27, 69.91),
        (741.2, 370.6, 567.8, 381.4, 246.8, 221.7, 208.7, 44.4),
        (30.3, 15.1, 24.0, 19.0, 10.6, 9.85, 10.1, 10.1),
    ),
)

TABLE3 = (
    PrintedRow("resnet18", "unpruned", None, 1259.13, 69.57, None),
    PrintedRow("resnet18", "network_slimming", 0.1, 2424.86, 69.65, 0.08),
    PrintedRow("resnet18", "network_slimming", 0.3, 2168.89, 67.85, -1.72),
    PrintedRow("resnet18", "soft_filter_pruning", 0.3, 1991.94, 67.1, -2.47),
    PrintedRow("resnet18", "early_bird_ff", 0.1, 1177.15, 69.84, 0.27),
    PrintedRow("resnet18", "early_bird_ff", 0.3, 952.46, 68.28, -1.29),
    PrintedRow("resnet50", "unpruned", None, 2839.96, 75.99, None),
    PrintedRow("resnet50", "thinet", 0.3, 4358.53, 72.04, -3.55),
    PrintedRow("resnet50", "thinet", 0.5, 3850.03, 71.01, -4.58),
    PrintedRow("resnet50", "thinet", 0.7, 3431.48, 68.42, -7.17),
    PrintedRow("resnet50", "early_bird_ff", 0.3, 2242.3, 73.86, -1.73),
    PrintedRow("resnet50", "early_bird_ff", 0.5, 1718.78, 73.35, -2.24),
    PrintedRow("resnet50", "early_bird_ff", 0.7, 890.65, 70.16, -5.43),
)
