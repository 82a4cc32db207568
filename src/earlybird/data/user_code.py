"""Data sets from the user's own code: `pkg.mod:callable` or `file.py:callable`."""

from __future__ import annotations

from earlybird.data.images import DataBundle
from earlybird.errors import DataError
from earlybird.user_code import find_callable


def user_bundle(name: str) -> DataBundle:
    """Call the function that `name` points to, without arguments, and return its `DataBundle`.

    Raises:
        DataError: no such module, file or function, or it returns something else. Errors of the function itself pass.
    """
    function = find_callable(name, "data", DataError)
    bundle = function()
    if not isinstance(bundle, DataBundle):
        made = getattr(function, "__name__", "it")
        raise DataError(f"data {name!r}: {made}() returned {type(bundle).__name__}; it must return a DataBundle")
    return bundle
