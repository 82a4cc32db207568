"""`earlybird report`: finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from earlybird.cli.options import Parser


def command(argv: Sequence[str]) -> int:
    """Print the comparison table, for the terminal or as Markdown."""
    parser = Parser("report", "Compare finished runs: accuracy, parameters, FLOPs, seconds.")
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders that hold them")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parsed = parser.parse_args(list(argv))
    from earlybird.report.comparison import comparison_tables, print_comparison
    from earlybird.report.table import to_markdown
    from earlybird.runs.record_file import load_records

    records = load_records(parsed.runs)
    if parsed.markdown:
        print(to_markdown(*comparison_tables(records)))
    else:
        print_comparison(records)
    return 0
