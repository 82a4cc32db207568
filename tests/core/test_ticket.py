from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from earlybird.core import ChannelMask, Ticket
from earlybird.errors import TicketError


def ticket(**fields: Any) -> Ticket:
    mask = ChannelMask({"z": torch.tensor([True, False, True]), "a": torch.tensor([False, True])})
    weights = {
        "z.weight": torch.tensor([0.5, -1.0, 2.0]),
        "z.num_batches_tracked": torch.tensor(7),
        "z.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "conv": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
    }
    return Ticket(
        **{"mask": mask, "weights": weights, "prune_ratio": 0.5, "realised_ratio": 0.4, "drawn_after": 9, **fields}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ticket.safetensors"


def plain(made: Ticket) -> dict[str, Any]:
    return {name: value for name, value in vars(made).items() if name != "weights"}


def test_a_ticket_read_back_is_the_ticket_written(path):
    written = ticket(
        rule="authors_code",
        window=4,
        epsilon=0.2,
        criterion="taylor",
        min_channels=2,
        round_to=8,
        tie_score="max",
        policy="tie",
        groups_digest="abc",
        distances=(0.25, 1 / 3),
        flags=("fired at the rule's minimum",),
        notes={"step": 3, "journal": {"rows": [1, None, "ü"]}},
    )
    written.save(path)
    read = Ticket.load(path)
    assert plain(read) == plain(written)
    assert list(read.mask) == ["z", "a"]
    assert read.weights.keys() == written.weights.keys()
    for name, value in written.weights.items():
        assert read.weights[name].dtype == value.dtype
        assert read.weights[name].shape == value.shape
        assert torch.equal(read.weights[name], value)


def test_a_field_left_out_here_would_be_lost():
    # Guards the test above: it must change every field from its default.
    changed = {"rule", "window", "epsilon", "criterion", "min_channels", "round_to", "policy", "groups_digest"}
    changed |= {"distances", "flags", "notes", "tie_score"}
    assert {f.name for f in dataclasses.fields(Ticket)} == changed | {
        "mask",
        "weights",
        "prune_ratio",
        "realised_ratio",
        "drawn_after",
    }


def test_saving_what_was_read_gives_the_same_bytes(path):
    ticket(notes={"step": 3}).save(path)
    first = path.read_bytes()
    Ticket.load(path).save(path)
    assert path.read_bytes() == first


def test_weights_that_share_memory_can_be_saved(path):
    shared = torch.arange(4.0)
    ticket(weights={"a": shared, "b": shared, "c": shared[::2]}).save(path)
    assert Ticket.load(path).weights["c"].tolist() == [0.0, 2.0]


def test_weights_read_back_can_be_trained_on(path):
    ticket().save(path)
    Ticket.load(path).weights["z.weight"].mul_(2)
    assert Ticket.load(path).weights["z.weight"].tolist() == [0.5, -1.0, 2.0]


def test_a_ticket_can_be_made_anew_from_its_fields(path):
    made = Ticket(**{**vars(ticket()), "notes": {"step": 7}, "flags": ("x",)})
    made.save(path)
    read = Ticket.load(str(path))
    again = dataclasses.replace(read, notes={})
    assert (read.notes, read.flags, again.notes, again.mask) == ({"step": 7}, ("x",), {}, made.mask)


def test_a_ticket_takes_no_assignment():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket().prune_ratio = 0.1


def test_the_file_is_a_json_header_and_raw_numbers_and_nothing_else(path):
    ticket().save(path)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    assert list(header.pop("__metadata__")) == ["earlybird_ticket"]
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]  # no gap
    assert spans[-1][1] == len(data) - end
    assert {entry["dtype"] for entry in header.values()} == {"U8", "F32", "I64", "BF16", "BOOL"}
    assert not data.startswith((b"\x80", b"PK"))  # a pickle, a zip of torch.save


def test_any_byte_that_changes_is_found(path, tmp_path):
    ticket(weights={"w": torch.ones(2)}).save(path)
    data, broken = path.read_bytes(), tmp_path / "broken.safetensors"
    undetected = []
    for position in range(len(data)):
        flip = 0x2A if data[position] == 0x20 else 1 << position % 8  # A blank becomes a line feed: JSON all the same.
        broken.write_bytes(data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :])
        try:
            Ticket.load(broken)
            undetected.append(position)
        except TicketError as error:
            assert "\n" not in str(error)
    assert len(data) > 600
    assert undetected == []


def test_a_truncated_or_longer_file_is_found(path, tmp_path):
    ticket().save(path)
    data, broken = path.read_bytes(), tmp_path / "broken.safetensors"
    for length in [*range(0, len(data), 37), len(data) - 1]:
        broken.write_bytes(data[:length])
        with pytest.raises(TicketError, match="is corrupt"):
            Ticket.load(broken)
    broken.write_bytes(data + b"\0")
    with pytest.raises(TicketError, match="is corrupt"):
        Ticket.load(broken)


def refusal(path: Path) -> str:
    with pytest.raises(TicketError) as found:
        Ticket.load(path)
    return str(found.value)


def test_an_empty_file_a_missing_one_and_a_folder_are_refused(path, tmp_path):
    assert refusal(path) == f"ticket {path} does not exist; give the path of a ticket.safetensors"
    assert refusal(tmp_path) == f"ticket {tmp_path} cannot be read (it is a folder); give a ticket.safetensors"
    path.touch()
    assert refusal(path) == f"ticket {path} is corrupt or no safetensors file; draw it again or restore the file"


def test_safetensors_of_another_kind_are_no_ticket(path):
    for metadata in (None, {"format": "pt"}):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        assert refusal(path) == f"{path} is a safetensors file but no ticket; give a ticket.safetensors"


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("write", [lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), torch.save])
def test_a_pickle_offered_as_a_ticket_is_refused_and_not_executed(write, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Bomb(), path)
    assert "is corrupt or no safetensors file" in refusal(path)
    assert not Path("exploded").exists()


def sealed(path: Path, header: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A file with this header and a right sha256: what somebody who means harm would offer."""
    if isinstance(header, dict):
        header = {"sha256": "0" * 64, **header}
    tensors = {"mask.a": torch.ones(2, dtype=torch.uint8)} if tensors is None else tensors
    save_file(tensors, path, metadata={"earlybird_ticket": json.dumps(header)})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1))
    return path


def header_of(**changes: Any) -> dict[str, Any]:
    fields = {k: v for k, v in vars(ticket()).items() if k not in ("mask", "weights")}
    return {"format_version": 2, "layers": ["a"], **fields, **changes}


def test_a_file_made_by_the_same_rule_is_a_ticket(path):
    assert Ticket.load(sealed(path, header_of())).mask.kept_counts() == {"a": 2}


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version_is_refused_and_named(version, path):
    assert refusal(sealed(path, header_of(format_version=version))) == (
        f"ticket {path} has format version {version!r}, this version of earlybird reads 2; draw it again"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prune_ratio": "half"}, "prune_ratio is 'half'"),
        ({"drawn_after": 1.5}, "drawn_after is 1.5"),
        ({"notes": []}, r"notes is \[\]"),
        ({"layers": ["a", "b"]}, "'mask.b'"),
        ({"layers": 3}, "not iterable"),
        ({"distances": 0.5}, "distances is 0.5"),
    ],
)
def test_a_header_with_a_part_missing_or_of_another_type_is_refused(changes, told, path):
    with pytest.raises(TicketError, match=f"is not as it was written .*{told}.*draw it again"):
        Ticket.load(sealed(path, header_of(**changes)))


def test_a_header_without_a_field_is_refused(path):
    header = header_of()
    del header["rule"]
    assert "is not as it was written ('rule' is missing)" in refusal(sealed(path, header))


def test_a_mask_that_is_none_is_refused(path):
    flat = {"mask.a": torch.ones(2, 2, dtype=torch.uint8)}
    assert "is not as it was written (mask of layer 'a'" in refusal(sealed(path, header_of(), flat))


@pytest.mark.parametrize("header", [[], 3, "x", None, {}])
def test_a_header_that_is_no_ticket_is_refused(header, path):
    assert "is corrupt (its header cannot be read)" in refusal(sealed(path, header))


@pytest.mark.parametrize("text", ["[" * 100_000, '"earlybird"', "{}}"])
def test_a_file_whose_outer_header_is_hostile_is_refused(text, path):
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    assert "is corrupt or no safetensors file" in refusal(path)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(path):
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert "is corrupt or no safetensors file" in refusal(path)


def test_saving_replaces_an_older_ticket_and_leaves_no_other_file(path):
    ticket(drawn_after=1).save(path)
    ticket(drawn_after=2).save(path)
    assert Ticket.load(path).drawn_after == 2
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_older_ticket_and_no_temporary_file(step, path, monkeypatch):
    ticket(drawn_after=1).save(path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match="No space left on device"):
        ticket(drawn_after=2).save(path)
    assert Ticket.load(path).drawn_after == 1
    assert list(path.parent.iterdir()) == [path]


def test_notes_that_are_no_plain_values_are_refused(path):
    with pytest.raises(TicketError, match=r"cannot be written as JSON .*Tensor.*; give plain values in notes"):
        ticket(notes={"x": torch.zeros(1)}).save(path)
    assert not path.exists()


def test_a_file_from_before_the_tie_score_reads_as_the_mean(tmp_path):
    path = tmp_path / "old.safetensors"
    Ticket(ChannelMask({"bn": torch.tensor([True, False])}), {}, 0.5, 0.5, 6).save(path)
    data = path.read_bytes()
    digest = re.search(rb'sha256\\": \\"([0-9a-f]{64})', data).group(1)
    # The header keeps its length: what follows it must not move.
    data = data.replace(rb", \"tie_score\": \"mean\"", b" " * len(rb", \"tie_score\": \"mean\""))
    blank = data.replace(digest, b"0" * 64)
    path.write_bytes(data.replace(digest, hashlib.sha256(blank).hexdigest().encode()))
    assert Ticket.load(path).tie_score == "mean"


def test_a_ticket_prints_as_one_line():
    assert repr(ticket(flags=("a", "b"), prune_ratio=0.5, realised_ratio=0.4, drawn_after=7, rule="paper")) == (
        "Ticket(keeps 3 of 5 channels in 2 layers, prune ratio 0.5 (realised 0.400), draw 7, rule paper, 2 flags)"
    )
    assert "flags" not in str(ticket(flags=()))
