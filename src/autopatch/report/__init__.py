"""Overlays, the Pareto plot, and the report page of a run.

- `overlay`: draws an anomaly map over its image; `ColorScale`: one color scale for all images.
  `anomalous_region`: the pixels of an image above the threshold.
- `case_panel`, `outline`, `side_by_side`: image, true anomaly and anomaly map in one picture.
- `write_contact_sheet`: synthetic anomalies of all kinds in one picture.
- `write_unusual`: good images that do not look like the others, with their anomaly maps.
- `rank_cases`, `Ranking`: the best and worst images. `draw_cases`, `Cases`: their pictures.
- `pareto_figure`: plots all candidates of a search. `Candidate`, `best_on_test`: what it plots.
- `write_report`: writes the page of a run with its pictures and tables. `Report`, `Failure`: its
  contents; `PAGE`: its file name; `require_report_folder` checks that its folder can be written.
- `METRIC_TITLES`, `VALIDATION_TITLES`: headings of the metrics in tables. `percent`, `in_words`:
  their values with intervals; `bounds`: an interval. `as_tested`: what the test set measures.
- `Evidence`: the anomalies that a search has seen, in words; `by_kind`, `rwap_of_shots`: how well
  they are found.
"""

from autopatch.report.cases import Cases, Ranking, draw_cases, rank_cases
from autopatch.report.contact_sheet import write_contact_sheet
from autopatch.report.evidence import Evidence, by_kind, rwap_of_shots
from autopatch.report.metrics import (
    METRIC_TITLES,
    VALIDATION_TITLES,
    as_tested,
    bounds,
    in_words,
    percent,
)
from autopatch.report.overlay import (
    ColorScale,
    anomalous_region,
    case_panel,
    outline,
    overlay,
    side_by_side,
)
from autopatch.report.page import (
    PAGE,
    Failure,
    Report,
    require_report_folder,
    write_report,
)
from autopatch.report.pareto import Candidate, best_on_test, pareto_figure
from autopatch.report.unusual import write_unusual

__all__ = [
    "METRIC_TITLES",
    "PAGE",
    "VALIDATION_TITLES",
    "Candidate",
    "Cases",
    "ColorScale",
    "Evidence",
    "Failure",
    "Ranking",
    "Report",
    "anomalous_region",
    "as_tested",
    "best_on_test",
    "bounds",
    "by_kind",
    "case_panel",
    "draw_cases",
    "in_words",
    "outline",
    "overlay",
    "pareto_figure",
    "percent",
    "rank_cases",
    "require_report_folder",
    "rwap_of_shots",
    "side_by_side",
    "write_contact_sheet",
    "write_report",
    "write_unusual",
]
