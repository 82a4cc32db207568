"""Python objects of the user's own, named `pkg.mod:name` or `path/to/file.py:name`.

Networks, data sets, criteria and methods are found here. Whatever goes wrong on the way (no file, no attribute, an
exception inside) is said in one line, with the full error chained to it. Code runs only where the user named it; who
reads a name from a file must ask first (`settings.run.refuse_unnamed_code`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from earlybird.errors import EarlyBirdError, did_you_mean, one_line

Kind = Literal["model", "data", "criterion", "method"]

# What stands before the colon of names that are no code. It depends on what is named: data `timm:x` would be code.
_LIBRARIES: dict[Kind, tuple[str, ...]] = {
    "model": ("torchvision", "timm"),
    "data": ("hf", "imagefolder"),
    "criterion": (),
    "method": (),
}


def is_code(name: str, kind: Kind) -> bool:
    """True if the name of a model, of data, ... points to Python code (`pkg.mod:callable`, `file.py:callable`)."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in _LIBRARIES[kind]


def find_callable(name: str, kind: Kind, error: type[EarlyBirdError], *, other_forms: str = "") -> Any:
    """The callable that `name` points to.

    `name` is `pkg.mod:callable` or `file.py:callable`; other_forms are further legal names, for messages.

    Raises:
        EarlyBirdError: of the class `error`: the name is of another form; no such file, module or attribute; it raised
            while it was loaded; or it cannot be called.
    """
    source, _, attribute = name.rpartition(":")
    if (
        not source or not attribute or attribute.startswith("/") or not is_code(name, kind)
    ):  # What no check took for code is never run.
        raise error(f"{kind} {name!r} names no callable; write pkg.mod:callable or file.py:callable")
    if source.endswith(".py"):
        module = _load_file(Path(source), kind, error)
    else:
        try:
            module = importlib.import_module(source)
        except Exception as raised:
            legal = ", ".join(filter(None, [other_forms, "pkg.mod:callable (installed or on PYTHONPATH)"]))
            hint = did_you_mean(source, _LIBRARIES[kind])
            raise error(
                f"{kind} {name!r}: importing {source!r} raised {one_line(raised)}; {hint}expected {legal} or "
                "file.py:callable"
            ) from raised
    if not hasattr(module, attribute):
        defined_here = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
        own = [key for key, value in defined_here.items() if callable(value)]
        listed = ", ".join(own[:9]) or "none"
        raise error(f"{kind} {name!r}: there is no {attribute!r} in it; its own callables: {listed}")
    found = getattr(module, attribute)
    if not callable(found):
        raise error(f"{kind} {name!r} is a {type(found).__name__}, which cannot be called")
    return found


def _load_file(path: Path, kind: Kind, error: type[EarlyBirdError]) -> ModuleType:
    path = path.expanduser()
    if not path.is_file():
        raise error(f"no file {str(path)!r} to load a {kind} from; name an existing one as file.py:callable")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_name = f"earlybird_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise error(f"{str(path)!r} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class up by its module's name
    try:
        spec.loader.exec_module(module)
    except Exception as raised:
        del sys.modules[module_name]
        raise error(f"{str(path)!r} raised {one_line(raised)} while it was loaded") from raised
    return module
