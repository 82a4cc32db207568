from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from earlybird.core import ChannelMask, Ticket
from earlybird.errors import TicketError


def ticket() -> Ticket:
    shared = torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last)
    return Ticket(
        mask=ChannelMask({"b": torch.tensor([True, False]), "a": torch.tensor([False, True, True, True])}),
        weights={"conv.weight": shared, "tied.weight": shared, "steps": torch.tensor(7)},
        prune_ratio=0.3,
        realised_ratio=1 / 3,
        drawn_after=12,
        distances=(0.2, 0.05),
        flags=("a flag",),
        notes={"clock": "scaled", "step": 1662, "journal": {"rows": [{"loss": 0.5}]}},
    )


def test_a_ticket_survives_its_file(tmp_path: Path):
    before = ticket()
    before.save(tmp_path / "t.safetensors")
    after = Ticket.load(tmp_path / "t.safetensors")
    assert after.mask == before.mask
    assert list(after.mask) == ["b", "a"]
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    assert replace(after, mask=before.mask, weights=before.weights).__dict__ == before.__dict__
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_every_flipped_byte_is_noticed(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    ticket().save(path)
    data = path.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    for position in [*range(0, header_end, 29), *range(header_end, len(data), 5)]:
        broken = bytearray(data)
        broken[position] ^= 0x10
        path.write_bytes(broken)
        try:
            after = Ticket.load(path)
        except TicketError as error:
            assert "\n" not in str(error)
        else:
            # Only a character of the readable notes may change without breaking the tensors' sha256.
            assert position < header_end
            assert after.mask == ticket().mask


@pytest.mark.parametrize("length", [0, 4, 200, -1])
def test_a_truncated_ticket_is_corrupt(tmp_path: Path, length: int):
    path = tmp_path / "t.safetensors"
    ticket().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TicketError, match=r"ticket .* is corrupt .*; draw it again or restore the file"):
        Ticket.load(path)


def test_what_is_no_ticket_is_told_apart(tmp_path: Path):
    with pytest.raises(TicketError, match="does not exist"):
        Ticket.load(tmp_path / "absent")
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(TicketError, match="is a safetensors file but no ticket"):
        Ticket.load(tmp_path / "weights.safetensors")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"mask": 1}))
    with pytest.raises(TicketError, match="corrupt"):
        Ticket.load(tmp_path / "pickle")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format_version": 0}, "format version 0, this one reads 1"),
        ({"format_version": 1, "sha256": "0"}, "sha256 differs"),
        ([1], "its header is no object"),
    ],
)
def test_a_header_of_another_kind_is_refused(tmp_path: Path, header: object, message: str):
    save_file({"x": torch.ones(1)}, tmp_path / "t", metadata={"earlybird_ticket": json.dumps(header)})
    with pytest.raises(TicketError, match=message):
        Ticket.load(tmp_path / "t")


def test_a_failed_save_keeps_the_old_ticket(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    ticket().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        replace(ticket(), notes={"not json": object()}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
