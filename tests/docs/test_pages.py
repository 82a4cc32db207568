"""Every page that is named exists, every link leads somewhere, and lines fit a screen.

Each rule is a function from a tree of files to its violations, so that it is shown to fail on a tree that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE_NAME = re.compile(r"(?<![\w./:-])(?:\.\./)*[\w./-]*\w\.md\b")
CODE = re.compile(r"`[^`\n]*`")
LINK_TEXT = re.compile(r"\[[^\]]*\](?=\()")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
SECTIONS = re.compile(r"method\.md` sections? (\d+)(?: and (\d+))?")
PROGRAM = re.compile(r"(?<![\w./:-])(?:\.\./)*[\w.-]+/[\w./-]*\w\.py\b")
# What `earlybird compare` writes into the folder of a comparison is no page of this repository.
WRITTEN_BY_RUNS = {"table.md"}
LONGEST_LINE = 120
# Below this heading a page of results holds tables and notes as `earlybird compare` writes them.
GENERATED = "## The tables"


def pages(repository: Path) -> list[Path]:
    found = [repository / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    found += sorted((repository / "docs").rglob("*.md"))
    return [path for path in found if path.is_file()]


def missing_pages(repository: Path) -> list[str]:
    """Names of pages that exist neither beside the file that names them nor from the root of the repository."""
    wrong = []
    for path in [*pages(repository), *sorted((repository / "src").rglob("*.py"))]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for name in PAGE_NAME.findall(LINK_TEXT.sub("", line)):
                exists = (path.parent / name).is_file() or (repository / name).is_file()
                if not exists and name not in WRITTEN_BY_RUNS:
                    wrong.append(f"{path.relative_to(repository)}:{number}: {name}")
    return wrong


def missing_programs(repository: Path) -> list[str]:
    """Paths of Python files that a page names and that exist neither from the root nor below the package."""
    roots = (repository, repository / "src" / "earlybird")
    return [
        f"{page.relative_to(repository)}:{number}: {name}"
        for page in pages(repository)
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        for name in PROGRAM.findall(LINK_TEXT.sub("", line))
        if "NAME" not in name and not any((root / name).is_file() for root in (page.parent, *roots))
    ]


def missing_sections(repository: Path) -> list[str]:
    """Numbered sections of docs/method.md that the source cites and the page lacks."""
    there = set(re.findall(r"^## (\d+)\. ", (repository / "docs" / "method.md").read_text(), flags=re.MULTILINE))
    return [
        f"{path.relative_to(repository)}: section {number}"
        for path in sorted((repository / "src").rglob("*.py"))
        for cited in SECTIONS.findall(path.read_text(encoding="utf-8"))
        for number in cited
        if number and number not in there
    ]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(repository: Path) -> list[str]:
    """Relative links whose file or heading does not exist."""
    wrong = []
    for path in pages(repository):
        for target, heading in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
            to = path.parent / target if target else path
            if not to.exists():
                wrong.append(f"{path.relative_to(repository)}: {target}")
            elif heading and heading not in anchors(to):
                wrong.append(f"{path.relative_to(repository)}: {target}#{heading}")
    return wrong


def written_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Lines that somebody wrote: a table needs one for each row, and generated ones are as long as they come out."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line == GENERATED:
            return
        if not line.startswith("|"):
            yield number, line


def long_lines(repository: Path) -> list[str]:
    return [
        f"{page.relative_to(repository)}:{number}: {len(line)} letters, at most {LONGEST_LINE}"
        for page in pages(repository)
        for number, line in written_lines(page)
        if len(line) > LONGEST_LINE
    ]


def test_every_page_that_is_named_exists():
    assert missing_pages(REPOSITORY) == []


def test_every_section_that_is_cited_exists():
    assert missing_sections(REPOSITORY) == []


def test_every_link_leads_to_a_file_and_a_heading():
    assert broken_links(REPOSITORY) == []


def test_every_python_file_that_a_page_names_exists():
    assert missing_programs(REPOSITORY) == []


def test_lines_of_pages_fit_a_screen():
    assert long_lines(REPOSITORY) == []


def test_the_rules_see_the_real_tree():
    assert {"README.md", "method.md", "cost.md"} <= {path.name for path in pages(REPOSITORY)}
    assert "docs/method.md" in PAGE_NAME.findall((REPOSITORY / "src/earlybird/core/drawing.py").read_text())
    assert "cost" in anchors(REPOSITORY / "docs" / "decisions.md")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ["README.md", "docs/method.md", "src/earlybird/core/mask.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("src/earlybird/core/mask.py", "# `method.md` section 1", ["src/earlybird/core/mask.py:1: method.md"]),
        ("src/earlybird/core/mask.py", "# `docs/method.md` section 1", []),
        ("src/earlybird/core/mask.py", "# see https://example.org/gone.md", []),
        ("README.md", "\n[cost](docs/cost.md)", ["README.md:2: docs/cost.md"]),
        ("docs/method.md", "[gone.md](method.md), ../README.md, table.md", []),
        ("docs/method.md", "../slimming.md", ["docs/method.md:1: ../slimming.md"]),
    ],
)
def test_a_missing_page_is_found(tree: Path, file: str, text: str, told: list[str]):
    (tree / file).write_text(text)
    assert missing_pages(tree) == told


def test_a_missing_python_file_is_found(tree: Path):
    page = tree / "docs" / "method.md"
    page.write_text(
        "`core/mask.py`, src/earlybird/core/mask.py, my_own.py\n`core/gone.py`, https://x.org/a/gone.py, core/NAME.py"
    )
    assert missing_programs(tree) == ["docs/method.md:2: core/gone.py"]


def test_a_missing_section_is_found(tree: Path):
    (tree / "docs" / "method.md").write_text("## 1. Search\n## 2. Training\n")
    (tree / "src" / "earlybird" / "core" / "mask.py").write_text("# `docs/method.md` sections 2 and 3")
    assert missing_sections(tree) == ["src/earlybird/core/mask.py: section 3"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("![cost](cost.svg)", ["docs/method.md: cost.svg"]),
        ("## 1. Early-Bird search\n[above](#1-early-bird-search), [x](https://example.org/gone)", []),
        ("`self.layers[:3](x)`", []),
        ("[above](#1-search)", ["docs/method.md: #1-search"]),
    ],
)
def test_a_broken_link_is_found(tree: Path, text: str, told: list[str]):
    (tree / "docs" / "method.md").write_text(text)
    assert broken_links(tree) == told


def test_a_long_line_is_found_but_no_row_of_a_table_and_nothing_generated(tree: Path):
    page, long = tree / "docs" / "method.md", "x" * 121
    page.write_text(f"{long[1:]}\n{long}\n|{long}|\n{GENERATED}\n{long}\n")
    assert long_lines(tree) == ["docs/method.md:2: 121 letters, at most 120"]
