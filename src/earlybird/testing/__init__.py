"""Conformance checks for criteria and methods, for anybody's own.

Each raises `AssertionError` with one sentence that says what does not hold. They need seconds, no data and no GPU.

Example:
    >>> from earlybird import bn_scale
    >>> check_criterion(bn_scale)
"""

from earlybird.testing.criterion_checks import check_criterion
from earlybird.testing.method_checks import check_method

__all__ = ["check_criterion", "check_method"]
