"""Masks of single weights: what is ranked, what is kept, what a file refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from earlybird.core import WeightMask, keep_largest, mask_weights_, prunable_weights
from earlybird.errors import ConfigError, MaskError, NonFiniteError, TicketError

SCORES = {"a": torch.tensor([[4.0, 1.0], [3.0, 0.5]]), "b": torch.tensor([2.0, 0.1])}


def flags(mask: WeightMask) -> dict[str, list]:
    return {name: keep.tolist() for name, keep in mask.items()}


def test_all_tensors_are_ranked_together():
    # Lowest first: b[1] 0.1, a[1][1] 0.5, a[0][1] 1.0, b[0] 2.0, ...
    assert flags(keep_largest(SCORES, 0.5)) == {"a": [[True, False], [True, False]], "b": [True, False]}


@pytest.mark.parametrize(("ratio", "removed"), [(0.0, 0), (0.25, 2), (0.3, 2), (0.42, 3), (0.99, 6)])
def test_round_of_the_ratio_times_the_weights_go(ratio, removed):
    mask = keep_largest(SCORES, ratio)
    assert mask.total - mask.kept == removed
    assert mask.realised_ratio == pytest.approx(removed / 6)


def test_of_equal_scores_the_earlier_goes():
    assert flags(keep_largest({"a": torch.ones(2), "b": torch.ones(2)}, 0.75)) == {
        "a": [False, False],
        "b": [False, True],
    }


def test_what_was_removed_before_stays_removed_and_counts():
    first = WeightMask({"a": torch.tensor([[False, True], [True, True]]), "b": torch.tensor([True, True])})
    # Three of six go: the one that is gone, though its score is the highest, and the two lowest of the others.
    assert flags(keep_largest(SCORES, 0.5, first)) == {"a": [[False, True], [True, False]], "b": [True, False]}
    # A ratio below what is gone brings nothing back.
    assert keep_largest(SCORES, 0.0, first).kept == 5


def test_scores_that_are_no_numbers_are_named():
    with pytest.raises(NonFiniteError, match="'b': a score is NaN or infinite"):
        keep_largest({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, 0.5)


@pytest.mark.parametrize(
    ("scores", "ratio", "within", "error", "message"),
    [
        (SCORES, 1.0, None, ConfigError, r"prune_ratio is 1.0; give a number in \[0, 1\)"),
        ({}, 0.5, None, MaskError, "there are no scores"),
        (SCORES, 0.5, WeightMask({"a": torch.ones(2, dtype=torch.bool)}), MaskError, "of other tensors"),
    ],
)
def test_wrong_input_is_refused(scores, ratio, within, error, message):
    with pytest.raises(error, match=message):
        keep_largest(scores, ratio, within)


def test_a_mask_is_a_value():
    given = torch.tensor([True, False])
    mask = WeightMask({"w": given})
    given[0] = False
    mask["w"][0] = False
    assert mask["w"].tolist() == [True, False]
    assert repr(mask) == "WeightMask(1 tensors, 1 of 2 weights kept)"
    with pytest.raises(MaskError, match=r"weight mask of 'w' is torch\.float32 \[2\]"):
        WeightMask({"w": torch.ones(2)})


def test_weights_of_convs_and_linears_are_prunable_once_each():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 3)
    )
    net.append(net[4])  # shared: one tensor
    assert list(prunable_weights(net)) == ["0.weight", "2.weight", "4.weight"]
    with pytest.raises(MaskError, match="no convolution and no linear layer"):
        prunable_weights(nn.BatchNorm2d(2))


def test_masking_zeroes_what_is_removed_and_nothing_else():
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    mask_weights_(net, WeightMask({"weight": torch.tensor([[True, False], [False, True]])}))
    assert torch.equal(net.weight, before * torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"weight": torch.ones(3, 2, dtype=torch.bool)}, r"'weight' of shape \[3, 2\], the network shape \[2, 2\]"),
        ({"head": torch.ones(2, dtype=torch.bool)}, "'head' of shape .*, the network no such parameter"),
    ],
)
def test_a_mask_of_another_network_is_refused(mask, message):
    with pytest.raises(MaskError, match=message):
        mask_weights_(nn.Linear(2, 2), WeightMask(mask))


def test_a_file_gives_back_the_mask_and_its_notes_and_no_byte_may_change(tmp_path: Path):
    path = tmp_path / "weight-mask.safetensors"
    mask = keep_largest(SCORES, 0.5)
    mask.save(path, step=7, prune_ratio=0.5)
    again, notes = WeightMask.load(path)
    assert flags(again) == flags(mask) and list(again) == ["a", "b"]
    assert notes == {"step": 7, "prune_ratio": 0.5}
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TicketError, match="weight mask .* is corrupt .*run the search again"):
        WeightMask.load(path)
    with pytest.raises(TicketError, match="does not exist; give the path of a weight-mask"):
        WeightMask.load(tmp_path / "nothing")
