"""The tables of a device check (`device_check.py`), from its JSON.

python benchmarks/device_tables.py device-check.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlybird.report.table import MISSING, Table, named_columns, to_markdown

FORMS = ("eager", "captured", "compiled")
DENSE = "dense"
_Rows = Mapping[str, Mapping[str, Any]]  # by form


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The training step; its joules and memory; the loop, bits and resume."""
    steps = found.get("steps")
    rows = steps if isinstance(steps, list) else []
    parts = [_step_table(rows), _energy_table(rows, found)] if rows else []
    return [*parts, _check_table(found)]


def _step_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = ("network, batch", "widths", "MACs", *(f"{form}, ms" for form in FORMS), "captured / eager",
             "captured / dense captured", "compiled / captured", "first compiled step, s")  # fmt: skip
    lines = []
    for (network, widths), forms in _by_network(rows).items():
        dense = _by_network(rows)[network, DENSE]
        macs = [next(iter(found.values()))["macs"] for found in (forms, dense)]
        first = forms.get("compiled", {}).get("first_step_seconds")
        lines.append([
            network, widths, _ratio(*macs),
            *(_number(forms.get(form, {}).get("seconds"), 1e3, ".2f") for form in FORMS),
            _ratio(_seconds(forms, "captured"), _seconds(forms, "eager")),
            _ratio(_seconds(forms, "captured"), _seconds(dense, "captured")),
            _ratio(_seconds(forms, "compiled"), _seconds(forms, "captured")), _number(first, 1, ".1f"),
        ])  # fmt: skip
    spreads = [row["spread"] for row in rows if "spread" in row]
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row["error"]:
            failed.setdefault(f"{row['form']}: {row['error']}", []).append(f"{row['name']} {row['widths']}")
    notes = [f"{told} ({'; '.join(names)})." for told, names in failed.items()]
    if spreads:
        rounds = min(len(row["blocks"]) for row in rows if "blocks" in row)
        told = f"Medians of {rounds} rounds or more in turns, which differ by {100 * max(spreads):.0f} % at most"
        notes.insert(0, f"{told}.")
    return Table(named_columns(*names), lines, "Training step, ms", notes)


def _energy_table(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Table:
    measured = [form for form in FORMS if any(row["form"] == form for row in rows)]
    names = ("network, batch", "widths", *(f"{form}, mJ an image (W)" for form in measured), "peak MB, eager")
    lines = []
    for (network, widths), forms in _by_network(rows).items():
        peak = forms.get("eager", {}).get("peak_bytes")
        lines.append(
            [network, widths, *(_joules(forms.get(form, {})) for form in measured), _number(peak, 1e-6, ".0f")]
        )
    notes = [f"Energy: {found['energy_method']}."]
    if any(row.get("joules_per_image") is not None for row in rows):
        notes.append("A GPU's counter ticks every 20 to 100 ms: joules of these short blocks are right to 15 % or so.")
    shares = [row["shared_blocks"] for row in rows if row.get("shared_blocks") is not None]
    if shares:
        most = max(row.get("others") or 0 for row in rows)
        told = f"Others were on the card in {100 * sum(shares) / len(shares):.0f} % of the blocks"
        notes.append(f"{told}, {most} at most; their joules are not shown.")
    return Table(named_columns(*names), lines, "Joules and memory of a step", [*notes, *_energy_notes(found)])


def _energy_notes(found: Mapping[str, Any]) -> list[str]:
    return [f"{note}." for note in found.get("energy_notes", ())]


def _check_table(found: Mapping[str, Any]) -> Table:
    device = found["device"]
    lines = [["device", f"{device['name']} ({device['type']}), torch {found['torch']}, {found['precision']}"]]
    for part in ("loop", "bits", "resume", "steps"):
        if isinstance(failed := found.get(part), Mapping) and "error" in failed:
            lines.append([part, f"failed: {failed['error']}"])
    if (loop := found.get("loop")) and "error" not in loop:
        step = " / ".join(f"{1e3 * loop[f'{key}_step_seconds']:.2f}" for key in ("loop", "synchronised", "bare"))
        speed = f"{loop['loop_images_per_second']:,.0f} against {loop['bare_images_per_second']:,.0f} images/s"
        lines.append([f"loop, {loop['network']}, {loop['form']}", f"{step} ms; {speed}"])
    for bits in found.get("bits") or () if isinstance(found.get("bits"), list) else ():
        for form in ("eager", "captured"):
            lines.append([f"{form} against eager, {bits['network']}, {bits['steps']} steps", _difference(bits[form])])
    if (resume := found.get("resume")) and "error" not in resume:
        lines.append([f"killed after {resume['killed_after_epochs']} of {resume['epochs']} epochs and resumed",
                      _difference(resume["resumed"])])  # fmt: skip
        lines.append(["two runs, neither killed", _difference(resume["two_runs"])])
    notes = [
        "Loop: a step of a run by its epochs, checkpoints included / of the loop alone, waited for / bare.",
        f"{found['seconds_taken']:.0f} of {found['seconds_allowed']:.0f} s, imports not counted.",
    ]
    return Table(named_columns("check", "found"), lines, "Loop, bits and resume", notes)


def _difference(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return f"failed: {found['error']}"
    if found["same_bits"]:
        return "same bits"
    share = found["share_of_training"]
    told = "" if share is None else f"; {100 * share:.2g} % of what was trained"
    return f"differs by {found['largest_difference']:.2g} at most{told}"


def _by_network(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((f"{row['name']}, {row['batch']}", row["widths"]), {})[row["form"]] = row
    return found


def _seconds(forms: _Rows, form: str) -> float | None:
    return forms.get(form, {}).get("seconds")


def _joules(row: Mapping[str, Any]) -> str:
    joules = row.get("joules_per_image")
    # Joules of a shared card are of others too.
    return MISSING if joules is None or row.get("others") else f"{1e3 * joules:.1f} ({row['watts']:.0f})"


def _ratio(a: float | None, b: float | None) -> str:
    return MISSING if a is None or b is None else f"{a / b:.2f}"


def _number(value: float | None, scale: float, form: str) -> str:
    return MISSING if value is None else f"{value * scale:{form}}"


def text(found: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    return "\n".join(to_markdown(table) for table in tables(found))


if __name__ == "__main__":
    print(text(json.loads(Path(sys.argv[1]).read_text())))
