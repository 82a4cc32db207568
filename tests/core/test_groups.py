from __future__ import annotations

import copy
import itertools

import pytest
import torch

from earlybird.core import ChannelGroups, ChannelMask
from earlybird.core.groups import one_unit_per_channel, restrict_to_scored
from earlybird.errors import MaskError


def bits(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def groups(policy: str = "tie") -> ChannelGroups:
    """`a` and `c` are tied; `b` is free but for its last channel. Units: 0, 1 of a and c, 2, 3 of b."""
    return ChannelGroups(
        {"a": ints(0, 1), "b": ints(2, 3, -1), "c": ints(0, 1)},
        {"conv_a": ints(0, 1), "conv_b": ints(2, 3, -1), "head": ints(-1)},
        {"b": {2: "a raw stream reads it"}},
        policy,
    )


def test_units_and_widths_are_counted():
    assert groups().num_units == 4
    assert groups().widths() == {"a": 2, "b": 3, "c": 2}
    assert groups().units_of_layer["b"].tolist() == [2, 3, -1]
    assert groups().units_of_layer["conv_a"].tolist() == [0, 1]
    assert "nope" not in groups().units_of_layer


def test_each_unit_knows_its_layers_keys_first_then_producers():
    # a b c conv_a conv_b head are the layers 0 to 5.
    assert groups().layer_widths.tolist() == [2, 3, 2, 2, 3, 1]
    assert groups().layers_of == [(0, 2, 3), (0, 2, 3), (1, 4), (1, 4)]
    assert [tuple(pair) for pair in zip(*groups().memberships, strict=True)][:4] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_groups_without_layers_have_no_units():
    empty = ChannelGroups({})
    assert (empty.num_units, empty.widths(), len(empty.mask_of(bits()))) == (0, {}, 0)


def test_groups_with_every_channel_protected_have_no_units():
    whole = ChannelGroups({"a": ints(-1, -1)}, protected={"a": {0: "why", 1: "why"}})
    assert whole.num_units == 0
    assert whole.mask_of(bits())["a"].tolist() == [True, True]


def test_a_mask_and_its_units_are_two_views_of_one_thing():
    for keep in itertools.product([0, 1], repeat=4):
        mask = groups().mask_of(bits(*keep))
        assert mask["a"].tolist() == mask["c"].tolist() == bits(*keep[:2]).tolist()
        assert mask["b"].tolist() == [*bits(*keep[2:]).tolist(), True]
        assert groups().keep_units(mask).tolist() == bits(*keep).tolist()


def test_units_come_from_a_mask_whose_layers_lie_in_another_order():
    mask = ChannelMask({"c": bits(1, 0), "b": bits(0, 1, 1), "a": bits(1, 0)})
    assert groups().keep_units(mask).tolist() == [True, False, False, True]


def test_the_callers_tensors_are_copied():
    units, reasons = ints(0, -1), {1: "why"}
    made = ChannelGroups({"a": units}, protected={"a": reasons})
    units[1] = 0
    reasons.clear()
    made.check(ChannelMask({"a": bits(0, 1)}))
    assert made.unit_of["a"].tolist() == [0, -1]
    assert made.protected == {"a": {1: "why"}}


def test_groups_survive_a_copy():
    twin = copy.deepcopy(groups())
    assert twin.digest() == groups().digest()
    assert twin.num_units == 4


def test_the_digest_sees_structure_and_policy_only():
    assert groups().digest() == groups().digest()
    assert groups("select").digest() != groups().digest()
    assert ChannelGroups({"a": ints(0, 1)}).digest() != ChannelGroups({"a": ints(0, 0)}).digest()
    assert ChannelGroups({"a": ints(0, 1)}).digest() != ChannelGroups({"b": ints(0, 1)}).digest()
    assert ChannelGroups({"a": ints(0)}, {"conv": ints(0)}).digest() == ChannelGroups({"a": ints(0)}).digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": ints(0, 2)},), "unit indices of the channel groups must run from 0 without gaps"),
        (({"a": ints(1, 2)},), "must run from 0 without gaps"),
        (({"a": ints(0, -1)},), r"layer 'a': protected channels \[1\] carry no reason"),
        (({"a": ints(0, -2)},), "layer 'a' names unit -2; give 0 or more, or -1 for protected"),
        (({"a": torch.tensor([0.0, 1.0])},), r"units of layer 'a' are torch.float32 \[2\]; give a torch.int64 tensor"),
        (({"a": ints(0, 1)[None]},), r"units of layer 'a' are torch.int64 \[1, 2\]"),
        (({"a": ints()[:0]},), r"give a torch.int64 tensor of shape \[channels\]"),
        (({"a": ints(0, 1)}, {"conv": ints(0, 2)}), "layer 'conv' names unit 2; the mask keys hold 2"),
    ],
)
def test_groups_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(MaskError, match=message):
        ChannelGroups(*arguments)


def refusal(made: ChannelGroups, layers: dict[str, torch.Tensor]) -> str:
    with pytest.raises(MaskError) as found:
        made.check(ChannelMask(layers))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_mask_that_cuts_a_protected_channel_is_refused_with_the_reason():
    assert refusal(groups(), {"a": bits(1, 1), "b": bits(1, 1, 0), "c": bits(1, 1)}) == (
        "layer 'b' cuts 1 protected channels (channel 2: a raw stream reads it); "
        "draw the mask with groups=channel_groups(model, example_input)"
    )


def test_a_mask_that_disagrees_inside_a_tie_is_refused_with_both_layers_and_the_count():
    assert refusal(groups(), {"a": bits(1, 1), "b": bits(0, 0, 1), "c": bits(0, 0)}) == (
        "layer 'c' cuts 2 channels that 'a' keeps (tied by an add); "
        "draw the mask with groups=channel_groups(model, example_input)"
    )
    assert "layer 'a' cuts 1 channels that 'c' keeps" in refusal(
        groups(), {"a": bits(1, 0), "b": bits(1, 1, 1), "c": bits(1, 1)}
    )


def test_only_where_adds_tie_is_an_add_blamed():
    layers = {"a": bits(1, 0), "b": bits(1, 1, 1), "c": bits(1, 1)}
    assert "keeps (they are tied); draw" in refusal(groups("select"), layers)


def test_the_layer_that_cuts_is_named_although_it_keeps_more_in_all():
    made = ChannelGroups({"narrow": ints(0, 1), "wide": ints(0, 1, 2, 3, 4)})
    text = refusal(made, {"narrow": bits(1, 1), "wide": bits(0, 1, 1, 1, 1)})
    assert text.startswith("layer 'wide' cuts 1 channels that 'narrow' keeps")


def test_layers_that_cut_from_each_other_are_counted_one_way():
    made = ChannelGroups({"a": ints(0, 1, 2), "b": ints(0, 1, 2)})
    assert refusal(made, {"a": bits(0, 0, 1), "b": bits(1, 1, 0)}).startswith(
        "layer 'a' cuts 2 channels that 'b' keeps"
    )


def test_a_disagreement_inside_one_layer_is_told_as_such():
    halves = ChannelGroups({"a": ints(0, 1, 0, 1)})
    assert refusal(halves, {"a": bits(1, 0, 0, 0)}) == (
        "layer 'a' cuts 1 channels and keeps their partners in the same layer (they are tied); "
        "draw the mask with groups=channel_groups(model, example_input)"
    )


def test_every_disagreement_is_found():
    made = ChannelGroups({"a": ints(0, 1), "b": ints(1, 0, 1)})
    for a, b in itertools.product(itertools.product([0, 1], repeat=2), itertools.product([0, 1], repeat=3)):
        mask = ChannelMask({"a": bits(*a), "b": bits(*b)})
        if (b[1], b[0], b[2]) == (a[0], a[1], a[1]):
            assert made.keep_units(mask).tolist() == bits(*a).tolist()
        else:
            with pytest.raises(MaskError, match="tied"):
                made.check(mask)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": bits(1, 1), "b": bits(1, 1), "c": bits(1, 1)}, "layer 'b': the mask has 2 channels, the network 3"),
        ({"a": bits(1, 1), "b": bits(1, 1, 1)}, "layer 'c': the mask has no channels, the network 2"),
        (
            {"a": bits(1, 1), "b": bits(1, 1, 1), "c": bits(1, 1), "d": bits(1)},
            "layer 'd': the mask has 1 channels, the network no such prunable layer",
        ),
    ],
)
def test_a_mask_of_other_layers_or_widths_is_refused(layers, message):
    assert refusal(groups(), layers) == f"{message}; draw the mask from this network"


def test_units_of_another_number_make_no_mask():
    with pytest.raises(MaskError, match=r"the units to keep have shape \[3\]; give bool \[4\]"):
        groups().mask_of(bits(1, 1, 1))


def test_a_plain_chain_has_one_unit_per_channel():
    chain = one_unit_per_channel({"a": 2, "b": 1})
    assert {name: units.tolist() for name, units in chain.unit_of.items()} == {"a": [0, 1], "b": [2]}
    assert chain.policy == "none"


def test_groups_that_are_scored_everywhere_stay_as_they_are():
    made = groups()
    assert restrict_to_scored(made, {"c": None, "conv_b": None}) is made


def test_units_without_a_score_become_protected_and_the_rest_are_numbered_anew():
    left = restrict_to_scored(groups(), {"b": None, "stranger": None})
    assert left.num_units == 2
    assert {name: units.tolist() for name, units in left.unit_of.items()} == {
        "a": [-1, -1],
        "b": [0, 1, -1],
        "c": [-1, -1],
    }
    assert left.producer_unit_of["conv_b"].tolist() == [0, 1, -1]
    assert left.producer_unit_of["conv_a"].tolist() == [-1, -1]
    assert left.protected["b"] == {2: "a raw stream reads it"}
    assert left.protected["a"] == dict.fromkeys((0, 1), "the criterion gives it no score")
    assert left.policy == "tie"


def test_a_tie_is_scored_through_any_of_its_members():
    assert restrict_to_scored(groups(), {"conv_a": None}).unit_of["c"].tolist() == [0, 1]


def test_no_scores_protect_everything():
    assert restrict_to_scored(groups(), {}).num_units == 0


def test_groups_print_as_one_line():
    assert repr(groups("inner")) == ("ChannelGroups(4 units of 7 channels in 3 layers, 1 protected, policy inner)")
