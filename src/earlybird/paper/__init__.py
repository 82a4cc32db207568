"""FLOPs of You et al. (2020) recomputed beside the printed: Tables 2 and 3, Figure 5 (`docs/method.md` section 6).

`printed` holds what the paper prints, `counted` the networks' F, `sums` the arithmetic and its rounding, `table2`,
`table3` and `figure5` the rows, `contradictions` where the paper disagrees with itself, `render` the output.
"""

from earlybird.paper.contradictions import Contradiction, table2_contradictions, table3_contradictions
from earlybird.paper.figure5 import Figure5Row, figure5_rows
from earlybird.paper.render import (
    figure5_facts,
    print_figure5,
    print_table2,
    print_table3,
    table2_facts,
    table3_facts,
)
from earlybird.paper.sums import DrawFit
from earlybird.paper.table2 import Table2Cell, Table2Row, table2_rows
from earlybird.paper.table3 import Table3Row, table3_rows

__all__ = [
    "Contradiction",
    "DrawFit",
    "Figure5Row",
    "Table2Cell",
    "Table2Row",
    "Table3Row",
    "figure5_facts",
    "figure5_rows",
    "print_figure5",
    "print_table2",
    "print_table3",
    "table2_contradictions",
    "table2_facts",
    "table2_rows",
    "table3_contradictions",
    "table3_facts",
    "table3_rows",
]
