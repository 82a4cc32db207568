"""Commands of runs: `train`, `search`, `retrain` make them; `evaluate`, `report`, `export`, `energy` read them."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from earlybird.cli.options import (
    JSON,
    SHORT_FLAGS,
    Flags,
    Parser,
    default_out,
    expand_short_flags,
    naming_the_file,
    parse_run,
    value_of,
)  # fmt: skip
from earlybird.errors import ConfigError
from earlybird.settings.catalog import method_class
from earlybird.settings.method import NO_TICKET_CURE, EarlyBirdTraining, check_requests, requests_of
from earlybird.settings.recipes import recipe_settings
from earlybird.settings.run import CODE_FLAGS, SECTIONS, read_yaml, refuse_unnamed_code

if TYPE_CHECKING:
    from earlybird.core import Ticket

_TRAIN = (
    "Train a network as an Early-Bird ticket, dense, or by any other method. Give the same command again after a kill: "
    "it goes on."
)
_DENSE_RUN = "lottery_ticket, thinet: start from this finished dense run instead of training it again; it is charged"
_SEARCH = (
    "Search tickets: train dense, watch the masks, write a ticket file for each ratio. `retrain` goes on from one."
)
_DRAWS = "when tickets are drawn, several at once: [rule,0,5,last]; default: when the stop rule fires"
_REQUESTS: Flags = {
    "--ratios": (list[float] | None, None, "several ratios at once: [0.3,0.5,0.7]"),
    "--draws": (list[int | Literal["rule", "last"]] | None, None, _DRAWS),
}
_RETRAIN = (
    "Cut the network by a ticket and train what is left, or what a control makes of it (--method). Settings are those "
    "of the search that drew it (config.yaml beside the ticket); flags win over them."
)
_TICKET: Flags = {"--ticket": (str | None, None, "ticket file that `search` or `train` wrote")}
_ENERGY = (
    "Integrate an external power meter's log (a CSV of time and watts) over the phases of a finished run, and write "
    "the joules into its record. Gaps in the log are reported as coverage, never filled."
)
_ENERGY_FLAGS: Flags = {
    "--run": (str | None, None, "folder of the finished run"),
    "--device": (str, "the whole machine, at the plug", "what the meter measured, in your words"),
    "--time-column": (str | None, None, "header of the column of times; two columns need no names"),
    "--power-column": (str | None, None, "header of the column of power"),
    "--power-unit": (Literal["W", "kW", "mW"], "W", "unit of the power column"),
    "--offset": (float, 0.0, "seconds to add to the log's times, where its clock differs"),
    "--max-gap": (float | None, None, "samples further apart (seconds) leave a gap"),
    **JSON,
}
_MODEL: Flags = {"--model": (str | None, None, "name the run's model again if it is your code")}
_DATA: Flags = {"--data": (str | None, None, "name the run's data again if it is your code")}
_EXPORT_FLAGS: Flags = {
    "--onnx": ("store_true", False, "ONNX (needs the extra `export`)"),
    "--pt2": ("store_true", False, "torch.export program"),
    "--out": (str | None, None, "folder to write into; default the run folder"),
    **_MODEL,
}


def train_command(argv: Sequence[str]) -> None:
    """Train, then show the finished run."""
    config, parsed = parse_run("train", _TRAIN, argv, {"--dense-run": (str | None, None, _DENSE_RUN)})
    from earlybird.runs.run import run

    out = parsed.out or default_out(config)
    show_finished_run(run(config, out, dense_run=parsed.dense_run, **_how(parsed)), out)


def _how(parsed: Namespace) -> dict[str, Any]:
    """Arguments that every command which trains hands on."""
    return {name: getattr(parsed, name) for name in ("force", "quiet", "wait")}


def show_finished_run(record: Mapping[str, Any], out: str) -> None:
    """Draw the figures, print the run's row and name the folder."""
    from earlybird.report.comparison import print_run
    from earlybird.report.plots import plot_run

    pictures = plot_run(record, out)
    print_run(record)
    print(f"{out}: record.json, model.safetensors, {', '.join(picture.name for picture in pictures)}")


def search_command(argv: Sequence[str]) -> None:
    """Search and print one line per ticket."""
    config, parsed = parse_run("search", _SEARCH, argv, _REQUESTS)
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    ratios = sorted(parsed.ratios or [config.method.prune_ratio])
    requests = requests_of(ratios, parsed.draws or [config.method.draw_at])
    check_requests(requests)
    # The first ratio stands in the configuration: the folder is then refused to a search of others.
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, prune_ratio=ratios[0]))
    from earlybird.runs.run import run_search

    out = parsed.out or default_out(config) + "-search"
    for request, path in run_search(config, requests, out, **_how(parsed)).items():
        when = "" if request.draw_at == "rule" else f", draw {request.draw_at}"
        print(f"p = {request.prune_ratio:g}{when}: {path or f'ticket: none; {NO_TICKET_CURE}'}")


def retrain_command(argv: Sequence[str]) -> None:
    """Retrain, then show the finished run."""
    arguments = expand_short_flags(argv)
    if {"-h", "--help"} & set(arguments):
        parse_run("retrain", _RETRAIN, arguments, _TICKET)
    if not (given := value_of("--ticket", arguments)):
        raise ConfigError("--ticket is missing; give the file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors")
    from earlybird.core import Ticket

    path = Path(given)
    ticket = Ticket.load(path)
    beside = path.parent / "config.yaml"
    if not beside.is_file() or value_of("--config", arguments) is not None:
        _retrain(arguments, ticket, path, {})
        return
    with naming_the_file(beside, arguments):
        settings = _settings_beside(beside, arguments)
        if (recipe := value_of("--recipe", arguments)) is not None:  # Flags win over what the search was trained by.
            training = settings.get("training", {})
            settings["training"] = {k: v for k, v in training.items() if k not in recipe_settings(recipe)}
        text = yaml.safe_dump(settings, sort_keys=False)
        _retrain([f"--config={text}", *arguments], ticket, path, settings.get("method", {}))


def _retrain(arguments: list[str], ticket: Ticket, path: Path, method: Mapping[str, Any]) -> None:
    """Retrain by flags; `method` is that of the search, where they do not name one."""
    from earlybird.runs.run import run

    name = value_of("--method.name", arguments) or method.get("name")
    takes_ratio = "prune_ratio" in {field.name for field in dataclasses.fields(method_class(name or "early_bird"))}
    if takes_ratio and value_of("--method.prune_ratio", arguments) is None:
        arguments = [*arguments, "--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _RETRAIN, arguments, _TICKET)
    label = "retrain" if name in (None, "early_bird") else name.rpartition(":")[2]
    out = parsed.out or str(path.parent / f"{label}-p{ticket.prune_ratio:g}")
    show_finished_run(run(config, out, ticket=path, **_how(parsed)), out)


def _settings_beside(path: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Settings in a file beside a ticket. The user has not named what it holds, so no code of it is run."""
    content = read_yaml(path)
    # Dotted keys and a `config` of its own would be read by the parser, past what is looked at here.
    plain = isinstance(content, dict) and set(content) <= {*SECTIONS, "resolved"}
    if not plain or not all(isinstance(v, dict) and not any("." in str(k) for k in v) for v in content.values()):
        raise ConfigError(f"{path} holds no settings of a run ({', '.join(SECTIONS)}); give --config with your own")
    for flag in CODE_FLAGS:
        long = SHORT_FLAGS.get(flag, flag)
        section, _, key = long.removeprefix("--").partition(".")
        refuse_unnamed_code(flag, str(content.get(section, {}).get(key) or ""), [value_of(long, arguments) or ""])
    return {name: content[name] for name in SECTIONS if name in content}


def evaluate_command(argv: Sequence[str]) -> None:
    """Print the test accuracy and loss of a finished run from its files alone, or JSON."""
    flags = {"--device": (str, "auto", "auto, cpu, cuda or cuda:N"), **_MODEL, **_DATA, **JSON}
    parser = Parser("evaluate", "Rebuild the network of a finished run and read its test set.", flags)
    parser.add_argument("run", type=str, help="run folder")
    parsed = parser.parse_args(list(argv))
    from earlybird.runs.folder import refuse_many_processes
    from earlybird.runs.run import run_evaluation

    refuse_many_processes()
    trusted = [name for name in (parsed.model, parsed.data) if name is not None]
    result = run_evaluation(parsed.run, device=parsed.device, trusted=trusted)
    if parsed.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        percent = f"{100 * result.accuracy:.2f} %"
        if result.top5_accuracy is not None:
            percent += f", top-5 {100 * result.top5_accuracy:.2f} %"
        print(f"test accuracy {percent} ({result.correct} of {result.samples}), loss {result.loss:.4f}")


def report_command(argv: Sequence[str]) -> None:
    """Print the comparison table, for the terminal or as Markdown."""
    flags = {"--markdown": ("store_true", False, "print Markdown")}
    parser = Parser("report", "Compare finished runs: accuracy, parameters, FLOPs, seconds.", flags)
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders that hold them")
    parsed = parser.parse_args(list(argv))
    from earlybird.report.comparison import comparison_tables, print_comparison
    from earlybird.report.table import to_markdown
    from earlybird.runs.record_file import load_records

    records = load_records(parsed.runs)
    if parsed.markdown:
        print(to_markdown(*comparison_tables(records)))
    else:
        print_comparison(records)


def export_command(argv: Sequence[str]) -> None:
    """Write the network of a finished run as ONNX or .pt2 and say how far it is from its source."""
    description = "Write the network of a finished run as ONNX or .pt2, and compare it with its source."
    parser = Parser("export", description, _EXPORT_FLAGS)
    parser.add_argument("run", type=str, help="run folder")
    parsed = parser.parse_args(list(argv))
    if not (parsed.onnx or parsed.pt2):
        raise ConfigError("no format given; add --onnx, --pt2 or both")
    from earlybird.integrations.export import export_onnx, export_pt2
    from earlybird.runs.folder import load_network, refuse_many_processes

    refuse_many_processes()
    model, spec = load_network(Path(parsed.run), trusted=[parsed.model] if parsed.model else [])
    folder = Path(parsed.out or parsed.run)
    folder.mkdir(parents=True, exist_ok=True)
    example = spec.example_input().repeat(2, 1, 1, 1)
    for wanted, write, name in ((parsed.onnx, export_onnx, "model.onnx"), (parsed.pt2, export_pt2, "model.pt2")):
        if wanted:
            difference = write(model, example, folder / name)
            print(f"{folder / name}: relative difference to the run's network {difference:.1e}")


def energy_command(argv: Sequence[str]) -> None:
    """Import a power meter's log into a run's record, then print what it gave for each phase."""
    is_help = not argv or argv[0] in ("-h", "--help")
    if not is_help and argv[0] != "import":
        raise ConfigError(f"unknown energy command {argv[0]!r}; give import, as in `earlybird energy import CSV`")
    parser = Parser("energy import", _ENERGY, _ENERGY_FLAGS)
    parser.add_argument("log", type=str, help="CSV with a column of times and a column of power")
    parsed = parser.parse_args(["--help"] if is_help else list(argv[1:]))
    if parsed.run is None:
        raise ConfigError("--run is missing; give the folder of the finished run, e.g. --run runs/x")
    from earlybird.energy.power_log import MeterReading
    from earlybird.runs.energy import import_power_log
    from earlybird.runs.folder import refuse_many_processes

    refuse_many_processes()
    columns = parsed.time_column, parsed.power_column, parsed.power_unit
    reading = MeterReading(Path(parsed.log), parsed.device, *columns, parsed.offset, parsed.max_gap)
    facts = import_power_log(Path(parsed.run), reading)
    print(json.dumps(facts, indent=1) if parsed.json else "\n".join(_energy_lines(facts, parsed.run)))


def _energy_lines(facts: dict[str, Any], run: str) -> list[str]:
    lines = [f"{run}: {_shown(facts)} measured by {facts['method']} ({facts['device']})"]
    lines.append(f"  {facts['log']['file']}: {facts['log']['columns']}")
    for name, phase in facts["phases"].items():
        lines.append(f"  {name}: {'not covered by the log' if phase['joules'] is None else _shown(phase)}")
    if facts["gaps"]:
        seconds = sum(end - start for start, end in facts["gaps"])
        lines.append(f"  {len(facts['gaps'])} gaps of {seconds:.1f} s in all are in no figure")
    if facts["idle_watts"] is not None:
        lines.append(f"  {facts['idle_watts']:.1f} W before and after the run; it is not taken off")
    return lines


def _shown(figure: dict[str, Any]) -> str:
    return f"{figure['joules']:,.1f} J over {100 * figure['coverage']:.1f} % of the seconds"
