"""Multi-objective search: a sampler over a search space, recorded in an Optuna study.

- `search`: the loop; proposes, evaluates, records, and resumes by replay. `SearchError`: all
  candidates failed. `SearchProgress`: its callback.
- `Plan`, `Study`: what a search is to do, and its record, open for writing; `load_trials`,
  `load_settings` read a stored one.
- `Evaluator`, `Evaluation`: what a candidate is asked for; the search knows nothing else of it.
  `COSTS`: what its cost can be.
- `Trial`, `Front`, `non_dominated`: one evaluation, and the result with its pick.
- `NSGA2`, `TPE`: the optimizers by ask and tell, without record; `Optimizer`: what they share.
- `load_published`: the trials of a published study database, as `PublishedTrials`.
"""

from autopatch.search.evaluation import COSTS, Evaluation, Evaluator
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.loop import SearchError, SearchProgress, search
from autopatch.search.nsga2 import NSGA2
from autopatch.search.optimizer import Optimizer
from autopatch.search.published import PublishedTrial, PublishedTrials, load_published
from autopatch.search.study import Plan, Study, load_settings, load_trials
from autopatch.search.tpe import TPE

__all__ = [
    "COSTS",
    "NSGA2",
    "TPE",
    "Evaluation",
    "Evaluator",
    "Front",
    "Optimizer",
    "Plan",
    "PublishedTrial",
    "PublishedTrials",
    "SearchError",
    "SearchProgress",
    "Study",
    "Trial",
    "load_published",
    "load_settings",
    "load_trials",
    "non_dominated",
    "search",
]
