"""Data sets from the user's own code: `pkg.mod:callable` or `file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from earlybird.data.images import DataBundle
from earlybird.errors import DataError


def user_bundle(name: str) -> DataBundle:
    """Call the function that `name` points to, without arguments, and return its `DataBundle`.

    Raises:
        DataError: no such module, file or function, or it returns something else. Errors of the function itself pass.
    """
    source, _, attribute = name.rpartition(":")
    module = _from_file(source, name) if source.endswith(".py") else _from_path(source, name)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise DataError(
            f"data '{name}': {source} has no function '{attribute}'; give module:function or file.py:function"
        )
    bundle = function()
    if not isinstance(bundle, DataBundle):
        raise DataError(f"data '{name}': {attribute}() returned {type(bundle).__name__}; it must return a DataBundle")
    return bundle


def _from_file(source: str, name: str) -> ModuleType:
    file = Path(source).expanduser()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise DataError(f"data '{name}': no file {file}; give module:function or file.py:function")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_path(source: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ImportError as error:
        raise DataError(f"data '{name}': cannot import '{source}' ({error}); is it on PYTHONPATH?") from error
