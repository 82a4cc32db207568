"""Where the printed numbers contradict each other or the text. Every value is computed from printed or counted ones."""

from __future__ import annotations

from dataclasses import dataclass

from earlybird.cost import CIFAR_TRAIN_IMAGES
from earlybird.cost.paper import FORWARDS_PER_TRAINING_STEP
from earlybird.paper.counted import dense_gflops, norm_channels
from earlybird.paper.printed import (
    BASELINES,
    FIRST_STEP_PERCENT,
    MOST_ACCURACY_GAINED,
    MOST_ENERGY_SAVED,
    MOST_OVERHEAD_PERCENT,
    TABLE2,
    TABLE3,
    VGG16_CIFAR10_ENERGY_SAVED,
    PrintedRow,
    PrintedSetting,
)
from earlybird.paper.table3 import THINET_RESNET50_DENSE_GFLOPS


@dataclass(frozen=True)
class Contradiction:
    """What the paper says, what its own numbers say, and the numbers of both, rounded for print."""

    claim: str
    finding: str
    values: dict[str, float]


def table2_contradictions() -> tuple[Contradiction, ...]:
    """Contradictions that rest on Table 2, and the text's claims about CIFAR."""
    return (
        _headline_saving(),
        _weakest_baseline(),
        _cheaper_reinit(),
        _snip_is_half(),
        _accuracy_gain(),
        _first_step(),
        _overhead(),
    )


def table3_contradictions() -> tuple[Contradiction, ...]:
    """Contradictions that rest on Table 3."""
    return (_soft_filter_pruning(), _deltas(), _dense_resnet50())


def _setting(model: str, dataset: str, prune_ratio: float) -> PrintedSetting:
    return next(s for s in TABLE2 if (s.model, s.dataset, s.prune_ratio) == (model, dataset, prune_ratio))


def _row(model: str, method: str) -> PrintedRow:
    return next(row for row in TABLE3 if (row.model, row.method) == (model, method))


def _saved(setting: PrintedSetting, baseline: str) -> float:
    return setting.energy_kilojoules(baseline) / setting.energy_kilojoules("early_bird_ll")


def _saved_at_least(setting: PrintedSetting) -> float:
    """Energy saved against the cheapest baseline."""
    return min(_saved(setting, baseline) for baseline in BASELINES)


def _headline_saving() -> Contradiction:
    setting = _setting("vgg16", "cifar100", 0.5)
    snip, low_precision = (setting.energy_kilojoules(method) for method in ("snip", "early_bird_ll"))
    own, most = _saved(setting, "snip"), max(map(_saved_at_least, TABLE2))
    return Contradiction(
        f"abstract: {MOST_ENERGY_SAVED}x less energy than the most competitive method (VGG16, CIFAR-100, p=0.5)",
        f"{snip} / {low_precision} kJ is {own:.2f}x; "
        f"the most in any setting, against its cheapest baseline, is {most:.2f}x",
        {"claimed": MOST_ENERGY_SAVED, "own_row": round(own, 2), "most_in_any_setting": round(most, 2)},
    )


def _weakest_baseline() -> Contradiction:
    setting = _setting("vgg16", "cifar10", 0.3)
    snip, thinet = (_saved(setting, baseline) for baseline in ("snip", "thinet"))
    return Contradiction(
        f"VGG16, CIFAR-10, p=0.3: {VGG16_CIFAR10_ENERGY_SAVED}x less energy than the most competitive method",
        f"that is against SNIP ({snip:.2f}x); ThiNet's {setting.energy_kilojoules('thinet')} kJ gives {thinet:.2f}x",
        {"claimed": VGG16_CIFAR10_ENERGY_SAVED, "snip": round(snip, 2), "thinet": round(thinet, 2)},
    )


def _cheaper_reinit() -> Contradiction:
    # Re-initialised tickets train e epochs more than inherited ones, at any e.
    found = [s for s in TABLE2 if s.total_petaflops("early_bird_reinit") < s.total_petaflops("early_bird_ff")]
    (setting,) = found
    reinit, inherited = (setting.total_petaflops(f"early_bird_{kind}") for kind in ("reinit", "ff"))
    return Contradiction(
        f"{setting.model}, {setting.dataset}, p={setting.prune_ratio}: re-init {reinit} P, FF {inherited} P",
        "re-init retrains longer after the same search, so it cannot be the cheaper one",
        {"reinit": reinit, "ff": inherited},
    )


def _snip_is_half() -> Contradiction:
    setting = _setting("preresnet101", "cifar10", 0.3)
    ticket, snip = setting.total_petaflops("lottery_ticket"), setting.total_petaflops("snip")
    return Contradiction(
        f"PreResNet101: SNIP {snip:.2f} P, lottery ticket {ticket} P",
        f"one dense training is half of two, {ticket / 2:.2f} P",
        {"snip": snip, "half_of_lottery_ticket": round(ticket / 2, 2)},
    )


def _accuracy_gain() -> Contradiction:
    gains = [
        s.accuracy_percent("early_bird_ff") - max(s.accuracy_percent(baseline) for baseline in BASELINES)
        for s in TABLE2
    ]
    return Contradiction(
        f"text: FF gains up to {MOST_ACCURACY_GAINED} points of accuracy over the baselines",
        f"against the best of the four baselines Table 2 gives {min(gains):+.2f} to {max(gains):+.2f}",
        {"claimed": MOST_ACCURACY_GAINED, "least": round(min(gains), 2), "most": round(max(gains), 2)},
    )


def _first_step() -> Contradiction:
    settings = [s for s in TABLE2 if (s.model, s.dataset) == ("preresnet101", "cifar10")]
    # The first step is one dense training, half of the lottery ticket's two; the whole adds the slim training.
    shares = [50 * s.total_petaflops("lottery_ticket") / s.total_petaflops("network_slimming") for s in settings]
    return Contradiction(
        f"text: the first step takes {FIRST_STEP_PERCENT:g} % of the training FLOPs (PreResNet101, CIFAR-10)",
        f"one dense training is {min(shares):.0f} to {max(shares):.0f} % of network slimming's total",
        {"claimed": FIRST_STEP_PERCENT, "least": round(min(shares), 1), "most": round(max(shares), 1)},
    )


def _overhead() -> Contradiction:
    network = "preresnet101"
    channels, forwards = norm_channels(network), FORWARDS_PER_TRAINING_STEP * CIFAR_TRAIN_IMAGES
    allowed = MOST_OVERHEAD_PERCENT / 100 * float(dense_gflops(network)) * 1e9 / channels
    return Contradiction(
        f"text: the mask distance takes up to {MOST_OVERHEAD_PERCENT} % of FLOPs",
        f"of one image's forward pass that is {allowed:.0f} operations for each of PreResNet101's {channels:,} "
        f"channels, "
        f"about what five distances take; of an epoch's training it would be {allowed * forwards:,.0f}",
        {
            "claimed_percent": MOST_OVERHEAD_PERCENT,
            "operations_per_channel_if_of_one_image": round(allowed, 1),
            "operations_per_channel_if_of_an_epoch": round(allowed * forwards),
        },
    )


def _soft_filter_pruning() -> Contradiction:
    charged = _row("resnet18", "soft_filter_pruning").total_petaflops
    one = _row("resnet18", "unpruned").total_petaflops
    return Contradiction(
        f"soft filter pruning is charged {charged} P, a dense and a slim training",
        f"it prunes while it trains, once, for at most {one} P; it is charged {charged / one:.2f} times that",
        {"charged": charged, "one_dense_training": one, "times": round(charged / one, 2)},
    )


def _deltas() -> Contradiction:
    unpruned = _row("resnet50", "unpruned").top1_percent
    rows = [row for row in TABLE3 if row.model == "resnet50" and row.top1_improvement is not None]
    (base,) = {round(row.top1_percent - (row.top1_improvement or 0.0), 2) for row in rows}
    return Contradiction(
        f"unpruned ResNet50 has top-1 {unpruned} %",
        f"all {len(rows)} differences of pruned rows are to {base} %",
        {"printed": unpruned, "implied": base},
    )


def _dense_resnet50() -> Contradiction:
    dense, thinet = float(dense_gflops("resnet50")), float(THINET_RESNET50_DENSE_GFLOPS)
    return Contradiction(
        f"ResNet50 takes {dense} GFLOP in the unpruned row",
        f"the ThiNet rows take {thinet} GFLOP for the same dense network, so the two are not comparable",
        {"counted": dense, "thinet": thinet},
    )
