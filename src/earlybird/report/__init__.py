"""Figures and tables of finished runs. Reads `record.json` files only; never imports torch."""

from earlybird.report.plots import plot_accuracy, plot_kept_channels, plot_mask_distance, plot_run
from earlybird.report.records import find_records, load_records, read_record
from earlybird.report.tables import comparison_rows, markdown_comparison, print_comparison

__all__ = [
    "comparison_rows",
    "find_records",
    "load_records",
    "markdown_comparison",
    "plot_accuracy",
    "plot_kept_channels",
    "plot_mask_distance",
    "plot_run",
    "print_comparison",
    "read_record",
]
