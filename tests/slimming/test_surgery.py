from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from earlybird.core import ChannelGroups, ChannelMask
from earlybird.cost import count_cost
from earlybird.errors import MaskError
from earlybird.models import build_model
from earlybird.slimming import certify, channel_groups, kept_indices, masked, sliced, slim
from earlybird.slimming.selection import SelectBatchNorm2d

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SMALL_IMAGES = IMAGES[:, :, :8, :8]


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))


MASK = ChannelMask({"1": torch.tensor([True, False, True, False])})


def test_masked_zeroes_scale_and_shift_of_removed_channels_in_a_copy():
    net = chain()
    nn.init.ones_(net[1].bias)
    dense = masked(net, MASK)
    assert dense[1].weight.tolist() == [1, 0, 1, 0]
    assert dense[1].bias.tolist() == [1, 0, 1, 0]
    assert net[1].weight.tolist() == [1, 1, 1, 1]


def test_masked_zeroes_rows_and_bias_of_a_layer_without_norm():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    dense = masked(net, ChannelMask({"0": torch.tensor([False, True])}), torch.zeros(2, 3))
    assert dense[0].weight[0].tolist() == [0, 0, 0]
    assert dense[0].bias[0] == 0
    assert torch.equal(dense[0].weight[1], net[0].weight[1])


def test_masked_refuses_a_layer_it_cannot_find():
    with pytest.raises(MaskError, match="layer 'nope': the mask has 4 channels, the network no such layer"):
        masked(chain(), ChannelMask({"nope": torch.ones(4, dtype=torch.bool)}))


def test_slim_keeps_the_very_weights_that_the_mask_names():
    net = chain()
    small = slim(net, MASK, SMALL_IMAGES)
    assert torch.equal(small[0].weight, net[0].weight[[0, 2]])
    assert torch.equal(small[0].bias, net[0].bias[[0, 2]])
    assert torch.equal(small[3].weight, net[3].weight[:, [0, 2]])
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels) == (2, 2, 2)


def test_the_slim_network_is_of_the_same_classes_and_smaller(random_mask):
    model = build_model("vgg16", num_classes=10, width=0.25)
    small = slim(model, random_mask(channel_groups(model, IMAGES)), IMAGES)
    assert type(small) is type(model)
    assert [type(m) for m in small.modules()] == [type(m) for m in model.modules()]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_only_norms_that_drop_channels_by_themselves_become_selecting():
    model = build_model("preresnet20", num_classes=10)
    groups = channel_groups(model, IMAGES)
    mask = {name: torch.ones(units.numel(), dtype=torch.bool) for name, units in groups.unit_of.items()}
    mask["layer1.1.bn1"][::2] = False
    mask["layer1.1.bn2"][::2] = False
    small = slim(model, ChannelMask(mask), IMAGES, groups)
    selecting = [name for name, module in small.named_modules() if isinstance(module, SelectBatchNorm2d)]
    assert selecting == ["layer1.1.bn1"]
    assert small.layer1[1].bn1.index.tolist() == list(range(1, 64, 2))
    assert small.layer1[1].conv1.in_channels == 32


def test_a_full_mask_changes_nothing():
    model = build_model("preresnet20", num_classes=10).eval()
    groups = channel_groups(model, IMAGES)
    small = slim(model, groups.mask_of(torch.ones(groups.num_units, dtype=torch.bool)), IMAGES, groups)
    assert torch.equal(small(IMAGES), model(IMAGES))
    assert small.state_dict().keys() == model.state_dict().keys()


def test_the_callers_network_and_the_random_state_stay_as_found(random_mask):
    model = build_model("preresnet20", num_classes=10).train()
    model.layer1[0].eval()
    seen: list[torch.Size] = []
    model.fc.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    mask = random_mask(channel_groups(model, IMAGES))
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1], random.getstate()

    small = slim(model, mask, IMAGES, channel_groups(model, IMAGES))
    assert seen == []
    masked(model, mask)
    certify(model, mask, IMAGES, small)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert [module.training for module in small.modules()] == modes


def test_format_dtype_and_requires_grad_carry_over(random_mask):
    model = build_model("preresnet20", num_classes=10).to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.layer1[0].conv2.weight.requires_grad_(False)
    example = IMAGES.to(torch.bfloat16)
    small = slim(model, random_mask(channel_groups(model, example)), example)
    for name, parameter in small.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.requires_grad == (name != "layer1.0.conv2.weight")
        if parameter.dim() == 4:
            assert parameter.stride(1) == 1, name
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_the_result_shares_no_memory_with_the_model():
    net = chain()
    small = slim(net, MASK, SMALL_IMAGES)
    before = copy.deepcopy(net.state_dict())
    for parameter in small.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_kept_indices_name_rows_and_columns():
    indices = kept_indices(chain(), MASK, SMALL_IMAGES)
    as_lists = {name: [None if i is None else i.tolist() for i in entry] for name, entry in indices.items()}
    assert as_lists == {
        "0.weight": [[0, 2], None, None, None],
        "0.bias": [[0, 2]],
        "1.weight": [[0, 2]],
        "1.bias": [[0, 2]],
        "1.running_mean": [[0, 2]],
        "1.running_var": [[0, 2]],
        "1.num_batches_tracked": [],
        "3.weight": [None, [0, 2], None, None],
        "3.bias": [None],
    }


def test_momentum_can_be_sliced_by_the_kept_indices(random_mask):
    model = build_model("preresnet20", num_classes=10)
    mask = random_mask(channel_groups(model, IMAGES))
    small = dict(slim(model, mask, IMAGES).named_parameters())
    indices = kept_indices(model, mask, IMAGES)
    for name, parameter in model.named_parameters():
        assert torch.equal(sliced(parameter, indices[name]), small[name]), name


def test_flattened_features_are_cut_with_all_their_positions():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    mask = ChannelMask({"0": torch.tensor([False, True])})
    rows, columns = kept_indices(net, mask, torch.zeros(1, 1, 2, 2))["3.weight"]
    assert rows is None
    assert columns.tolist() == [4, 5, 6, 7]


def test_a_shared_module_is_replaced_in_all_its_places(randomised):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.out = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
            self.alias = self.norm

        def forward(self, x):
            x = self.stem(x)
            x = x + self.out(torch.relu(self.norm(x)))
            return x + self.out(torch.relu(self.alias(x)))

    model = randomised(Twice())
    mask = ChannelMask({"norm": torch.tensor([True, False, True, True])})
    small = slim(model, mask, SMALL_IMAGES)
    assert small.norm is small.alias
    assert small.norm.index.tolist() == [0, 2, 3]
    assert certify(model, mask, SMALL_IMAGES, small) <= 1e-5


# --- masks and groups that do not fit ------------------------------------------------------------------------------


def test_a_mask_that_disagrees_inside_a_tie_is_refused():
    model = build_model("preresnet20", num_classes=10)
    groups = channel_groups(model, IMAGES, "tie")
    mask = dict(groups.mask_of(torch.ones(groups.num_units, dtype=torch.bool)))
    mask["bn"][:12] = False
    with pytest.raises(MaskError, match=r"layer 'bn' cuts 12 channels that 'layer3.1.bn1' keeps .*groups="):
        slim(model, ChannelMask(mask), IMAGES, groups)


def test_a_mask_that_cuts_a_protected_channel_is_refused_with_the_reason():
    model = build_model("preresnet20", num_classes=10)
    groups = channel_groups(model, IMAGES, "inner")
    mask = dict(groups.mask_of(torch.ones(groups.num_units, dtype=torch.bool)))
    mask["layer2.0.bn1"][0] = False
    with pytest.raises(MaskError, match=r"layer 'layer2.0.bn1' cuts 1 protected channels .*crosses an add"):
        slim(model, ChannelMask(mask), IMAGES, groups)


@pytest.mark.parametrize("layers", [{"1": 5}, {"2": 4}, {"1": 4, "3": 2}])
def test_a_mask_of_other_layers_or_widths_is_refused(layers):
    mask = ChannelMask({name: torch.ones(width, dtype=torch.bool) for name, width in layers.items()})
    with pytest.raises(MaskError, match="draw the mask from this network"):
        slim(chain(), mask, SMALL_IMAGES)


def test_a_mask_that_leaves_a_layer_nothing_is_refused():
    with pytest.raises(MaskError, match="layer '0' would keep no channel; draw the mask with min_channels"):
        slim(chain(), ChannelMask({"1": torch.zeros(4, dtype=torch.bool)}), SMALL_IMAGES)


def test_groups_of_another_network_are_refused():
    other = ChannelGroups({"1": torch.tensor([0, 0, 1, 1])}, policy="tie")
    with pytest.raises(MaskError, match=r"belong to another network or policy; make them with channel_groups"):
        slim(chain(), MASK, SMALL_IMAGES, other)


def test_groups_with_layers_kept_on_top_are_accepted():
    groups = channel_groups(chain(), SMALL_IMAGES, keep=["1"])
    full = groups.mask_of(torch.ones(groups.num_units, dtype=torch.bool))
    assert slim(chain(), full, SMALL_IMAGES, groups)[0].out_channels == 4
    with pytest.raises(MaskError, match=r"protected channels .*keep='1'"):
        slim(chain(), MASK, SMALL_IMAGES, groups)


def test_a_network_that_kept_its_last_features_is_cut_and_counted(randomised, random_mask):
    """After a training step such an attribute has a history, which `copy.deepcopy` refuses."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Conv2d(8, 2, 1)
            self.seen = {}

        def forward(self, x):
            self.features = self.body(x)
            self.seen["last"] = [self.features]
            return self.head(self.features)

    images = torch.randn(2, 3, 8, 8)
    model = randomised(Keeping())
    model(images).sum().backward()
    assert model.features.grad_fn is not None
    groups = channel_groups(model, images)
    small = slim(model, random_mask(groups), images, groups)
    assert small.head.in_channels == 4
    assert count_cost(small, (3, 8, 8)).macs == count_cost(model, (3, 8, 8)).macs // 2
    assert model.features.grad_fn is not None
