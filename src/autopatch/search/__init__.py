"""Multi-objective search: NSGA-II over a search space, recorded in an Optuna study.

- `search`: the loop; proposes, evaluates, records, and resumes by replay. `SearchError`: all
  candidates failed. `Progress`: its callback.
- `Study`: the record, open for writing; `load_trials`, `load_settings` read a stored one.
- `Evaluator`, `Evaluation`: what a candidate is asked for; the search knows nothing else of it.
- `Trial`, `Front`, `non_dominated`: one evaluation, and the result with its pick.
- `NSGA2`: the optimizer by ask and tell, without record.
"""

from autopatch.search.evaluation import Evaluation, Evaluator
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.loop import Progress, SearchError, search
from autopatch.search.nsga2 import NSGA2
from autopatch.search.study import Study, load_settings, load_trials

__all__ = [
    "NSGA2",
    "Evaluation",
    "Evaluator",
    "Front",
    "Progress",
    "SearchError",
    "Study",
    "Trial",
    "load_settings",
    "load_trials",
    "non_dominated",
    "search",
]
