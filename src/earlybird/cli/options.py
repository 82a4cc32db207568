"""Flags from dataclass fields, and a `RunConfig`, or a network and its data, from flags.

Every field of every section is `--section.field`; what people change often has a short name. The dataclasses stay the
one place where names, types, defaults and help stand.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from earlybird.errors import ConfigError, DataError, ModelError, did_you_mean, require, wrong_value
from earlybird.settings.catalog import METHODS, PRESETS, method_class, method_label, preset_settings
from earlybird.settings.fields import fits, legal_values
from earlybird.settings.method import EarlyBirdTraining, Method
from earlybird.settings.recipes import PAPER, RECIPES, recipe_settings, refuse_another_recipe
from earlybird.settings.run import SECTIONS, DataConfig, ModelConfig, RunConfig, read_yaml, refuse_unnamed_code

if TYPE_CHECKING:
    from earlybird.data.images import DataSizes
    from earlybird.runs.folder import NetworkSpec

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
    "--budget": "--training.budget",
}
_OPTION = re.compile(r"--[A-Za-z][\w.\-]*")
# The sections of a network and its data, for commands that train nothing.
NETWORK = ("model", "data")

# Flag, or several names of one -> type (or action), default and help.
Flags = Mapping[str, tuple[Any, Any, str]]
CONFIG: Flags = {"--config": ("config", None, "YAML with any of the settings below; flags win over it")}
RECIPE: Flags = {
    "--recipe": (str, PAPER, f"defaults of --training: {' or '.join(RECIPES)} (docs/method.md, section 2)"),
}
JSON: Flags = {"--json": ("store_true", False, "print JSON")}


class Parser(ArgumentParser):
    """Parser without abbreviated flags; its complaints are `ConfigError`s of one line."""

    def __init__(self, command: str, description: str, flags: Flags) -> None:
        # An abbreviated flag would be a second name for a setting, and hide a misspelt one.
        super().__init__(
            prog=f"earlybird {command}", description=description, exit_on_error=False, default_env=False,
            allow_abbrev=False,
        )  # fmt: skip
        self.takes_config = "--config" in flags
        self.kinds: dict[str, Any] = {}  # which say what is legal
        for flag, (kind, default, help) in flags.items():
            if isinstance(kind, str):
                self.add_argument(*flag.split(), action=kind, help=help)
                continue
            self.kinds[flag.split()[0].lstrip("-").replace("-", "_")] = kind  # as the parser names it
            self.add_argument(*flag.split(), type=kind, default=default, help=help)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise instead of printing usage and exiting."""
        raise ConfigError(_one_line(message, self))

    def parse_args(self, args: Sequence[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse, with every complaint as a `ConfigError`."""
        file = value_of("--config", args) if self.takes_config else None
        require("--config", file, file != "", "a YAML file")
        if file:
            self._check_config(file)
        try:
            return super().parse_args(args, **kwargs)
        except argparse.ArgumentError as error:
            self.error(str(error))

    def _check_config(self, file: str) -> None:
        """Raise unless a YAML file (or text) holds settings that there are flags for, in their sections."""
        content, where = read_yaml(file), "--config" if "\n" in file else file
        legal = [action.dest for action in self._actions if action.help != argparse.SUPPRESS]
        if not isinstance(content, dict):
            cure = "give keys and values, such as model.name"
            raise ConfigError(f"{where} holds no settings but {content!r:.60}; {cure}")
        for section, values in content.items():
            is_section = any(key.startswith(f"{section}.") for key in legal)
            if is_section and not isinstance(values, dict | None):
                raise ConfigError(f"{where}: section {section!r} is {values!r:.60}; give keys and values below it")
            inner = values or {} if is_section else values if isinstance(values, dict) and values else {"": None}
            for key in (f"{section}.{key}".rstrip(".") for key in inner):
                if key not in legal and section != "resolved":
                    hint = _nearest(key, legal)
                    raise ConfigError(f"{where}: unknown key {key!r}; {hint}`{self.prog} --help` lists all")


def parse_run(
    command: str, description: str, argv: Sequence[str], own: Flags | None = None
) -> tuple[RunConfig, Namespace]:
    """Read flags and YAML into a `RunConfig`.

    Args:
        command, description: name of the subcommand and what it does, for help.
        argv: the flags.
        own: flags of the command beside those of every run.

    Raises:
        ConfigError: a flag, key, type or value is wrong; one line with the legal values.
    """
    name, arguments = _named_method(expand_short_flags(argv))
    recipe = named_recipe(arguments)
    methods = f"a method ({', '.join(METHODS)}), a preset ({', '.join(PRESETS)}), pkg.mod:Class or file.py:Class"
    preset = {"method": preset_settings(name), "training": recipe_settings(recipe or PAPER)}
    flags: Flags = {
        **CONFIG,
        **RECIPE,
        "--out": (str | None, None, "run folder; default runs/MODEL-DATA-METHOD-sSEED"),
        "--force": ("store_true", False, "go on in a folder that holds another configuration"),
        "--quiet": ("store_true", False, "print no progress"),
        "--wait": ("store_true", False, "wait while another process works in the folder"),
        "--method.name": (str, name, methods),
        **section_flags(SECTIONS, preset, method_class(name)),
        **(own or {}),
    }
    parser = Parser(command, description, flags)
    # A run folder's config.yaml has it, and may be given as --config; it is not a setting.
    parser.add_argument("--resolved", type=dict, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    plain = parsed.as_dict()
    config = RunConfig.from_dict({name: dict(plain[name] or {}) for name in SECTIONS})
    if recipe is not None:
        refuse_another_recipe(recipe, dataclasses.asdict(config.training))
    return config, parsed


def named_recipe(argv: Sequence[str]) -> str | None:
    """Recipe that a flag names, or else the file of `--config`; None if neither does.

    Raises:
        ConfigError: there is none of this name.
    """
    recipe, file = value_of("--recipe", argv), value_of("--config", argv)
    if recipe is None and file:
        content = read_yaml(file)
        recipe = content.get("recipe") if isinstance(content, dict) else None
    if recipe is not None:
        recipe_settings(recipe)  # which refuses an unknown one
    return recipe


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


@contextmanager
def naming_the_file(file: str | Path | None, argv: Sequence[str]) -> Iterator[None]:
    """Name a YAML file of settings in the complaint about a value that stands in it and in no flag."""
    try:
        yield
    except (ConfigError, DataError, ModelError) as error:
        content, said = read_yaml(file) if file and "\n" not in str(file) else None, str(error)
        if not isinstance(content, dict) or str(file) in said:
            raise
        given = expand_short_flags(argv)
        for section, values in content.items():
            for key, value in values.items() if isinstance(values, dict) else ():
                flag = f"{section}.{key}"
                named = re.search(rf"(?<![\w.]){re.escape(flag)}(?![\w.])", said) or (
                    isinstance(value, str) and repr(value) in said
                )
                if named and value_of(f"--{flag}", given) is None:
                    raise type(error)(f"{file}: {flag}: {said.removeprefix(f'{flag} ')}") from error
        raise


def section_flags(
    sections: Iterable[str], preset: Mapping[str, Mapping[str, Any]], method: type[Method] | None = None
) -> dict[str, tuple[Any, Any, str]]:
    """A flag for every setting of these sections of a run; `preset` has other defaults, by section."""
    shorts = {long: short for short, long in SHORT_FLAGS.items()}
    kinds, found = get_type_hints(RunConfig) | {"method": method}, {}
    for section in sections:
        types = get_type_hints(kinds[section])
        for field in dataclasses.fields(kinds[section]):
            flag = f"--{section}.{field.name}"
            note = f" (short: {shorts[flag]})" if flag in shorts else ""
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            default = preset.get(section, {}).get(field.name, made)
            default = list(default) if isinstance(default, tuple) else default
            within = f"; {within}" if (within := field.metadata.get("within")) else ""
            found[flag] = types[field.name], default, field.metadata.get("help", "") + within + note
    return found


def planned_network(
    parsed: Namespace, argv: Sequence[str], record: Mapping[str, Any] | None = None
) -> tuple[NetworkSpec, DataSizes]:
    """Network that `train` would build by these flags of `NETWORK`, and the sizes of its data.

    Data of a finished run are taken as its record counts them, CIFAR and ImageNet as published; others are read.

    Args:
        argv: its arguments; a run's record may not name code that they do not.
        record: of the finished run whose settings were the defaults.

    Raises:
        ConfigError: a setting is out of range, or only the record names code.
        EarlyBirdError: unknown or missing data, or an unknown model.
    """
    from earlybird.forecast.run import sizes_of_run
    from earlybird.models import check_model_name
    from earlybird.runs.inputs import data_sizes, network_spec

    model, data = ModelConfig(**parsed.model.as_dict()), DataConfig(**parsed.data.as_dict())
    refuse_unnamed_code("--model", model.name, [value_of("--model.name", argv) or ""])
    check_model_name(model.name)
    sizes = sizes_of_run(record) if record and has_data_of(record, data) else None
    if sizes is None:
        refuse_unnamed_code("--data", data.name, [value_of("--data.name", argv) or ""])
        sizes = data_sizes(data)
    return network_spec(model, sizes), sizes


def has_data_of(record: Mapping[str, Any], data: DataConfig) -> bool:
    """Tell whether these are the data of a finished run, split and augmented as in it."""
    theirs = dataclasses.asdict(DataConfig()) | record["config"]["data"]
    return all(theirs[name] == value for name, value in dataclasses.asdict(data).items())


def _named_method(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Name of the method, which decides what flags there are, and the flags with the method of a flag in `--config`."""
    flags, name, file = list(argv), value_of("--method.name", argv), value_of("--config", argv)
    content: Any = read_yaml(file) if file else None
    theirs = content.get("method") if isinstance(content, dict) else None  # The parser says what is wrong with it.
    of_file = str(theirs["name"]) if isinstance(theirs, dict) and "name" in theirs else EarlyBirdTraining.name
    kind = method_class(of_file if name is None else name)
    if name is None or not isinstance(theirs, dict):
        return name or of_file, flags
    kinds = get_type_hints(kind)
    # Settings of the file are kept if the named method has them too and no preset changes them.
    ours = {field.name for field in dataclasses.fields(kind)} - set(preset_settings(name))
    kept = {key: value for key, value in theirs.items() if key in ours and fits(value, kinds[key])}
    text = yaml.safe_dump({**content, "method": {"name": name} | kept}, sort_keys=False)
    place = max(i for i, flag in enumerate(flags) if flag.partition("=")[0] == "--config")
    flags[place : place + (1 if "=" in flags[place] else 2)] = [f"--config={text}"]
    return name, flags


def _one_line(message: str, parser: Parser) -> str:
    text = " ".join(message.split())
    if unknown := re.search(r"unrecognized arguments?: (\S+)", text):
        return _unknown_setting(unknown.group(1), parser)
    if nested := re.search(r"NestedArg\(key='([\w.]+)'", text):  # Something below a setting that holds no others.
        key = re.search(r"Parser key \"([\w.]+)\"", text)
        return _unknown_setting(f"--{key[1] if key else ''}.{nested[1]}", parser)
    wrong = re.search(r"Parser key \"([\w.]+)\":.*(?:Got value|Given value):\s?(.*)$", text)
    if wrong and wrong.group(1) in parser.kinds:
        return wrong_value(wrong.group(1), wrong.group(2), legal_values(parser.kinds[wrong.group(1)]))
    text = re.sub(r"^Parser key \"([\w.]+)\":", r"\1:", text)
    text = re.sub(r"^argument (--\S+): expected one argument$", r"\1 stands without its value", text)
    return f"{text}; `{parser.prog} --help` lists the flags and their legal values"


def _unknown_setting(given: str, parser: Parser) -> str:
    if not given.startswith("-"):
        return f"{given!r} belongs to no flag; `{parser.prog} --help` lists them"
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    legal = [option for action in shown for option in action.option_strings if _OPTION.fullmatch(option)]
    legal += [short for short, long in SHORT_FLAGS.items() if long in legal]
    return f"unknown setting {given}; {_nearest(given.split('=')[0], legal)}`{parser.prog} --help` lists all"


def _nearest(given: str, legal: Sequence[str]) -> str:
    """Hint at the names that are near: short ones first, then those of a section, then those of another section."""
    short = [name for name in legal if "." not in name]
    hints = (did_you_mean(name, names) for name in (given, given.rpartition(".")[2]) for names in (short, legal))
    return next(filter(None, hints), "")
