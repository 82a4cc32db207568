"""Flags from dataclass fields, and a `RunConfig` from flags.

Every field of every section is `--section.field`; what people change often has a short name. The dataclasses stay the
one place where names, types, defaults and help stand.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from earlybird.errors import ConfigError
from earlybird.settings.catalog import METHODS, PRESETS, method_class, method_label, preset_settings
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.fields import fits, legal_values
from earlybird.settings.run import SECTIONS, DataConfig, ModelConfig, RunConfig, TrainingSettings

SHORT_FLAGS = {
    "--model": "--model.name",
    "--width": "--model.width",
    "--data": "--data.name",
    "--method": "--method.name",
    "--ratio": "--method.prune_ratio",
    "--weights": "--method.weights",
    "--clock": "--method.clock",
    "--round-to": "--method.round_to",
    "--on-no-ticket": "--method.on_no_ticket",
    "--epochs": "--training.epochs",
    "--batch-size": "--training.batch_size",
    "--lr": "--training.lr",
    "--seed": "--training.seed",
    "--precision": "--training.precision",
    "--device": "--training.device",
}
_OPTION = re.compile(r"--[A-Za-z][\w.\-]*")


class Parser(ArgumentParser):
    """Parser without abbreviated flags; its complaints are `ConfigError`s of one line."""

    def __init__(self, command: str, description: str) -> None:
        # An abbreviated flag would be a second name for a setting, and hide a misspelt one.
        super().__init__(
            prog=f"earlybird {command}",
            description=description,
            exit_on_error=False,
            default_env=False,
            allow_abbrev=False,
        )
        self.kinds: dict[str, Any] = {}

    def add_setting(self, flag: str, kind: Any, default: Any, help: str) -> None:
        """Add a flag of an annotated type; the type is remembered to say what is legal."""
        self.kinds[flag.lstrip("-").replace("-", "_")] = kind  # as the parser names it
        self.add_argument(flag, type=kind, default=default, help=help)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise instead of printing usage and exiting."""
        raise ConfigError(_one_line(message, self))

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, with every complaint as a `ConfigError`."""
        try:
            return super().parse_args(*args, **kwargs)
        except argparse.ArgumentError as error:
            self.error(str(error))


def run_parser(command: str, description: str, method_name: str) -> Parser:
    """Parser of every setting of a run whose method is `method_name`."""
    parser = Parser(command, description)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below; flags win over it")
    parser.add_setting("--out", str | None, None, "run folder; default runs/MODEL-DATA-METHOD-sSEED")
    parser.add_argument("--force", action="store_true", help="go on in a folder that holds another configuration")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    # A run folder's config.yaml has it, and may be given as --config; it is not a setting.
    parser.add_argument("--resolved", type=dict, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    what = f"a method ({', '.join(METHODS)}), a preset ({', '.join(PRESETS)}), pkg.mod:Class or file.py:Class"
    parser.add_setting("--method.name", str, method_name, what)
    method = method_class(method_name)
    kinds = {"model": ModelConfig, "data": DataConfig, "method": method, "training": TrainingSettings}
    for section, kind in kinds.items():
        add_section(parser, section, kind, preset_settings(method_name) if section == "method" else {})
    return parser


def parse_run(command: str, description: str, argv: Sequence[str], more: Any = None) -> tuple[RunConfig, Namespace]:
    """Read flags and YAML into a `RunConfig`.

    Args:
        command, description: name of the subcommand and what it does, for help.
        argv: the flags.
        more: called with the parser to add the command's own flags.

    Raises:
        ConfigError: a flag, key, type or value is wrong; one line with the legal values.
    """
    method_name, flags = _named_method(expand_short_flags(argv))
    parser = run_parser(command, description, method_name)
    if more is not None:
        more(parser)
    parsed = parser.parse_args(flags)
    plain = parsed.as_dict()
    sections = {name: dict(plain[name] or {}) for name in SECTIONS}
    return RunConfig.from_dict(sections), parsed


def expand_short_flags(argv: Sequence[str], sections: Collection[str] = SECTIONS) -> list[str]:
    """Write short flags of these sections out: `--lr 0.1` and `--lr=0.1` become `--training.lr ...`."""
    shorts = {short: long for short, long in SHORT_FLAGS.items() if long[2:].partition(".")[0] in sections}
    expanded = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        expanded.append(shorts.get(flag, flag) + equals + value)
    return expanded


def value_of(option: str, argv: Sequence[str]) -> str | None:
    """Value of the last `--option value` or `--option=value`, before anything is parsed; None without one."""
    found = None
    for flag, following in zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, joined = flag.partition("=")
        if name == option:
            found = joined if equals else following
    return found


def default_out(config: RunConfig) -> str:
    """Default run folder, `runs/MODEL-DATA-METHOD-sSEED`, with letters that a file name cannot hold replaced."""
    label = method_label(config.to_dict()["method"])
    parts = [config.model.name, config.data.name.rstrip("/").rsplit("/", 1)[-1], label]
    if (ratio := getattr(config.method, "prune_ratio", None)) is not None:
        parts.append(f"p{ratio:g}")
    name = "-".join([*parts, f"s{config.training.seed}"])
    return str(Path("runs") / re.sub(r"[^\w.\-]+", "_", name))


def add_section(parser: Parser, section: str, kind: Any, preset: dict[str, Any] | None = None) -> None:
    """Add a flag for every field of a settings dataclass; `preset` has other defaults."""
    shorts = {long: short for short, long in SHORT_FLAGS.items()}
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        flag = f"--{section}.{field.name}"
        note = f" (short: {shorts[flag]})" if flag in shorts else ""
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = (preset or {}).get(field.name, made)
        default = list(default) if isinstance(default, tuple) else default
        within = f"; {within}" if (within := field.metadata.get("within")) else ""
        parser.add_setting(flag, types[field.name], default, field.metadata.get("help", "") + within + note)


def _named_method(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Name of the method, which decides what flags there are, and the flags with the method of a flag in `--config`.

    The file's method settings are kept if the named method has them too and no preset changes them.
    """
    flags, name, file = list(argv), value_of("--method.name", argv), value_of("--config", argv)
    content: Any = None if file is None else _yaml_of(file)
    theirs = content.get("method") if isinstance(content, dict) else None
    of_file = str(theirs["name"]) if isinstance(theirs, dict) and "name" in theirs else EarlyBirdTraining.name
    kind = method_class(of_file if name is None else name)
    if name is None or not isinstance(theirs, dict):  # The parser itself says what is wrong with the file.
        return name or of_file, flags
    kinds = get_type_hints(kind)
    ours = {field.name for field in dataclasses.fields(kind)} - set(preset_settings(name))
    kept = {key: value for key, value in theirs.items() if key in ours and fits(value, kinds[key])}
    text = yaml.safe_dump({**content, "method": {"name": name} | kept}, sort_keys=False)
    place = max(i for i, flag in enumerate(flags) if flag.partition("=")[0] == "--config")
    flags[place : place + (1 if "=" in flags[place] else 2)] = [f"--config={text}"]
    return name, flags


def _yaml_of(file: str) -> Any:
    """Content of `--config`, a file or a text of several lines, read as YAML; None if it is neither."""
    try:
        return yaml.safe_load(file if "\n" in file else Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _one_line(message: str, parser: Parser) -> str:
    text = " ".join(message.split())
    unknown = re.search(r"(?:unrecognized arguments?: (\S+)|[Oo]ption '([\w.]+)' is not accepted)", text)
    if unknown:
        return _unknown_setting(unknown.group(1) or f"--{unknown.group(2)}", parser)
    wrong = re.search(r"Parser key \"([\w.]+)\":.*(?:Got value|Given value): (.*)$", text)
    if wrong and wrong.group(1) in parser.kinds:
        return f"{wrong.group(1)} is {wrong.group(2)!r}; give {legal_values(parser.kinds[wrong.group(1)])}"
    text = re.sub(r"^Parser key \"([\w.]+)\":", r"\1:", text)
    text = re.sub(r"^argument (--[\w.]+): expected one argument$", r"\1 stands without its value", text)
    return f"{text}; `{parser.prog} --help` lists the flags and their legal values"


def _unknown_setting(given: str, parser: Parser) -> str:
    if not given.startswith("-"):
        return f"{given!r} belongs to no flag; `{parser.prog} --help` lists them"
    legal = [option for action in parser._actions for option in action.option_strings if _OPTION.fullmatch(option)]
    legal += [short for short, long in SHORT_FLAGS.items() if long in legal]
    close = difflib.get_close_matches(given.split("=")[0], legal, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown setting {given}; {hint}`{parser.prog} --help` lists all"
