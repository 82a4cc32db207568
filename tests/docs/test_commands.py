"""Every command in a code block of the pages is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from earlybird.cli.main import main
from earlybird.cli.options import Parser

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


class Understood(Exception):
    """Raised instead of what the command would do."""


def commands(text: str) -> list[str]:
    """Lines of code blocks that begin with `earlybird`, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("earlybird ")]


# A method of the user's own and a ticket are looked into before the flags are read.
FOUND = sorted(
    {line for page in PAGES for line in commands(page.read_text()) if not re.search("--ticket|[.]py:", line)}
)


def test_continued_lines_are_joined_and_prose_is_no_command():
    assert commands("earlybird a\n```\nearlybird b \\\n  --c 1\nls\n```\n") == ["earlybird b    --c 1"]
    assert len(FOUND) > 20


@pytest.mark.parametrize("line", FOUND)
def test_a_command_of_the_pages_is_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def understood(parser: Parser, *args: Any, **kwargs: Any) -> None:
        parse(parser, *args, **kwargs)
        raise Understood

    parse = Parser.parse_args
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Parser, "parse_args", understood)
    arguments = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    with pytest.raises(Understood):
        main([*arguments, "--debug"])
