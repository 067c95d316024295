"""Overlays, the Pareto plot, and the report page of a run.

- `ColorScale`, `overlay`: an anomaly map over its image, with one color scale for all images.
  `anomalous_region`: the pixels of the image above the threshold.
- `case_panel`, `outline`, `side_by_side`: image, true anomaly and anomaly map, with a color bar.
- `rank_cases`, `Ranking`, `draw_cases`, `Cases`: the best and worst images, and their pictures.
- `Candidate`, `best_on_test`, `pareto_figure`: all candidates of a search in one plot.
- `Report`, `Failure`, `write_report`: the page of a run with its pictures and its table; `PAGE`:
  its file name; `require_report_folder` checks that its folder can be written. `METRIC_TITLES`:
  titles of the metrics in tables.
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
