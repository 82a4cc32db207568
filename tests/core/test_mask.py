from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from earlybird.core import ChannelMask
from earlybird.core.mask import check_same_layers
from earlybird.errors import MaskError


def bits(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


MASK = ChannelMask({"b": bits(1, 0, 1), "a": bits(0, 1)})


def test_counts_widths_and_order_are_those_of_the_layers_given():
    assert list(MASK) == ["b", "a"]
    assert len(MASK) == 2
    assert MASK.kept_counts() == {"b": 2, "a": 1}
    assert MASK.widths() == {"b": 3, "a": 2}
    assert MASK.flat().tolist() == [True, False, True, False, True]
    assert MASK.flat(["a", "b"]).tolist() == [False, True, True, False, True]
    assert repr(MASK) == "ChannelMask(2 layers, 3 of 5 channels kept)"


def test_a_mask_without_layers_is_empty():
    empty = ChannelMask({})
    assert (len(empty), empty.kept_counts(), empty.flat().tolist()) == (0, {}, [])


def test_what_the_caller_does_to_its_own_tensor_changes_nothing():
    keep = bits(1, 1)
    mask = ChannelMask({"a": keep})
    keep[0] = False
    assert mask["a"].tolist() == [True, True]


@pytest.mark.parametrize("read", [lambda m: m["b"], lambda m: dict(m)["b"], lambda m: next(iter(m.values()))])
def test_what_the_caller_does_to_a_tensor_it_read_changes_nothing(read):
    mask = ChannelMask({"b": bits(1, 0, 1)})
    before = mask.digest()
    read(mask)[:] = False
    mask.flat()[:] = False  # One layer alone: concatenating it must copy too.
    assert mask["b"].tolist() == [True, False, True]
    assert mask.digest() == before


def test_a_mask_takes_no_assignment():
    with pytest.raises(TypeError):
        MASK["b"] = bits(1, 1, 1)
    with pytest.raises(AttributeError):
        MASK.extra = 1


def test_equality_looks_at_names_and_bits_and_not_at_order():
    same = ChannelMask({"a": bits(0, 1), "b": bits(1, 0, 1)})
    assert same == MASK
    assert hash(same) == hash(MASK)
    assert same.digest() == MASK.digest()
    assert len({same, MASK}) == 1
    assert dict(same) != MASK


@pytest.mark.parametrize(
    "other",
    [
        {"b": bits(1, 0, 1), "a": bits(1, 1)},
        {"b": bits(1, 0, 1), "c": bits(0, 1)},
        {"b": bits(1, 0, 1)},
        {"b": bits(1, 0, 1), "a": bits(0, 1, 0)},
        {"ba": bits(1, 0, 1, 0, 1)},
    ],
)
def test_another_bit_name_or_width_gives_another_mask_and_digest(other):
    assert ChannelMask(other) != MASK
    assert ChannelMask(other).digest() != MASK.digest()


def test_a_mask_survives_copying_and_pickling():
    assert copy.deepcopy(MASK) == MASK
    assert pickle.loads(pickle.dumps(MASK)) == MASK


def test_strided_tensors_are_read_by_value():
    every_second = bits(1, 0, 1, 0)[::2]
    assert ChannelMask({"a": every_second}).digest() == ChannelMask({"a": bits(1, 1)}).digest()
    assert ChannelMask({"a": bits(1).expand(3)}).kept_counts() == {"a": 3}


@pytest.mark.parametrize(
    ("keep", "what"),
    [
        (torch.tensor([1, 0]), "torch.int64 [2]"),
        (torch.ones(2, 2, dtype=torch.bool), "torch.bool [2, 2]"),
        (torch.zeros(0, dtype=torch.bool), "torch.bool [0]"),
        (np.array([True]), "ndarray"),
    ],
)
def test_what_is_no_row_of_bits_is_refused(keep, what):
    with pytest.raises(MaskError) as refusal:
        ChannelMask({"bn": keep})
    assert str(refusal.value) == f"mask of layer 'bn' is {what}; give a torch.bool tensor of shape [channels]"


def test_masks_of_the_same_layers_pass_in_any_order():
    check_same_layers(MASK, ChannelMask({"a": bits(1, 1), "b": bits(1, 1, 1)}))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"b": bits(1, 0, 1)}, "masks differ at layer 'a': 2 channels against absent"),
        ({"b": bits(1, 0), "a": bits(0, 1)}, "masks differ at layer 'b': 3 channels against 2 channels"),
        ({**MASK, "c": bits(1)}, "masks differ at layer 'c': absent against 1 channels"),
    ],
)
def test_masks_of_other_layers_are_told_apart(other, message):
    with pytest.raises(MaskError, match=message):
        check_same_layers(MASK, ChannelMask(other))
