from __future__ import annotations

import pytest
import torch

from earlybird.core import ChannelGroups, ChannelMask
from earlybird.core.groups import restrict_to_scored
from earlybird.errors import MaskError


def mask(**layers: str) -> ChannelMask:
    """`mask(a="110")` keeps the first two of three channels of layer a."""
    return ChannelMask({name: torch.tensor([bit == "1" for bit in bits]) for name, bits in layers.items()})


def tied() -> ChannelGroups:
    """Layer a: units 0, 1, 2. Layers b and c: units 3, 4, tied; the last channel of c is protected."""
    return ChannelGroups(
        {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([3, 4]), "c": torch.tensor([3, 4, -1])},
        {"conv": torch.tensor([0, 1, 2])},
        {"c": {2: "read by 'head' at full width"}},
        "tie",
    )


def test_a_mask_cannot_be_changed_from_outside():
    source = torch.tensor([True, False])
    m = ChannelMask({"a": source})
    source[0] = False
    m["a"][1] = True
    assert m["a"].tolist() == [True, False]


def test_counts_widths_and_flat():
    m = mask(a="110", b="01")
    assert m.kept_counts() == {"a": 2, "b": 1}
    assert m.widths() == {"a": 3, "b": 2}
    assert m.flat().tolist() == [True, True, False, False, True]


def test_equality_and_digest_do_not_depend_on_the_order_of_layers():
    assert mask(a="10", b="01") == mask(b="01", a="10")
    assert mask(a="10", b="01").digest() == mask(b="01", a="10").digest()
    assert mask(a="10") != mask(a="01")
    assert len({mask(a="10").digest(), mask(a="01").digest(), mask(b="10").digest(), mask(a="100").digest()}) == 4
    assert len({mask(a="10"), mask(a="10")}) == 1


@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.ones(2, 2, dtype=torch.bool), torch.zeros(0, dtype=torch.bool), [True]]
)
def test_a_mask_is_born_checked(bad: object):
    with pytest.raises(MaskError, match=r"mask of layer 'a' is .*; give a torch\.bool tensor of shape \[channels\]"):
        ChannelMask({"a": bad})


def test_groups_count_units_and_turn_masks_into_units_and_back():
    groups = tied()
    assert groups.num_units == 5
    m = mask(a="101", b="10", c="101")
    assert groups.keep_units(m).tolist() == [True, False, True, True, False]
    assert groups.mask_of(groups.keep_units(m)) == m


def test_a_mask_that_disagrees_inside_a_tie_is_refused_with_both_names():
    message = r"layer 'b' cuts 1 channels that 'c' keeps \(they are tied\); draw the mask with groups=channel_groups"
    with pytest.raises(MaskError, match=message):
        tied().check(mask(a="111", b="01", c="111"))


def test_a_mask_that_cuts_a_protected_channel_is_told_why():
    with pytest.raises(MaskError, match=r"layer 'c' cuts 1 protected channels \(channel 2: read by 'head'"):
        tied().check(mask(a="111", b="11", c="110"))


@pytest.mark.parametrize("layers", [{"a": "111", "b": "11"}, {"a": "11", "b": "11", "c": "111"}])
def test_a_mask_of_other_layers_or_widths_is_refused(layers: dict[str, str]):
    with pytest.raises(MaskError, match="draw the mask from this network"):
        tied().check(mask(**layers))


def test_groups_with_gaps_or_without_reasons_are_refused():
    with pytest.raises(MaskError, match="without gaps"):
        ChannelGroups({"a": torch.tensor([0, 2])})
    with pytest.raises(MaskError, match=r"layer 'a': protected channels \[1\] carry no reason"):
        ChannelGroups({"a": torch.tensor([0, -1])})


def test_the_digest_of_groups_sees_units_and_policy():
    other = ChannelGroups({"a": torch.tensor([0, 1])}, policy="inner")
    assert ChannelGroups({"a": torch.tensor([0, 1])}, policy="tie").digest() != other.digest()
    assert ChannelGroups({"a": torch.tensor([0, 1])}, policy="inner").digest() == other.digest()


def test_units_that_no_score_reaches_are_protected_and_renumbered():
    groups = restrict_to_scored(tied(), {"b": torch.zeros(2)})
    assert groups.num_units == 2
    assert groups.unit_of["a"].tolist() == [-1, -1, -1]
    assert groups.unit_of["b"].tolist() == [0, 1]
    assert groups.unit_of["c"].tolist() == [0, 1, -1]
    assert groups.protected["a"][0] == "the criterion gives it no score"
    assert groups.protected["c"][2] == "read by 'head' at full width"
    same = tied()
    assert restrict_to_scored(same, {"conv": torch.zeros(3), "c": torch.zeros(3)}) is same
