"""Overlays, the Pareto plot, and the report page of a run.

- `overlay`: draws an anomaly map over its image; `ColorScale`: one color scale for all images.
  `anomalous_region`: the pixels of an image above the threshold.
- `case_panel`, `outline`, `side_by_side`: image, true anomaly and anomaly map in one picture.
- `rank_cases`, `Ranking`: the best and worst images. `draw_cases`, `Cases`: their pictures.
- `pareto_figure`: plots all candidates of a search. `Candidate`, `best_on_test`: what it plots.
- `write_report`: writes the page of a run with its pictures and tables. `Report`, `Failure`: its
  contents; `PAGE`: its file name; `require_report_folder` checks that its folder can be written.
  `METRIC_TITLES`: headings of the metrics in tables.
"""

from autopatch.report.cases import Cases, Ranking, draw_cases, rank_cases
from autopatch.report.overlay import (
    ColorScale,
    anomalous_region,
    case_panel,
    outline,
    overlay,
    side_by_side,
)
from autopatch.report.page import (
    METRIC_TITLES,
    PAGE,
    Failure,
    Report,
    require_report_folder,
    write_report,
)
from autopatch.report.pareto import Candidate, best_on_test, pareto_figure

__all__ = [
    "METRIC_TITLES",
    "PAGE",
    "Candidate",
    "Cases",
    "ColorScale",
    "Failure",
    "Ranking",
    "Report",
    "anomalous_region",
    "best_on_test",
    "case_panel",
    "draw_cases",
    "outline",
    "overlay",
    "pareto_figure",
    "rank_cases",
    "require_report_folder",
    "side_by_side",
    "write_report",
]
