"""Multi-objective search: a sampler over a search space, recorded in an Optuna study.

- `SearchSpace`: the genome, and what its genes mean; `compose_space` makes that of a supernet,
  `compose_genes` one of the backbone's genes alone.
- `Objective`, `OBJECTIVES`, `resolve_objectives`: what is minimized or maximized, by name.
  `FittedCandidate`: what it is measured on. `DEFAULT_OBJECTIVES`: the names of the usual ones.
- `search`: the loop; proposes, evaluates, records, and resumes by replay. `SearchError`: all
  candidates failed. `SearchProgress`: its callback. `InProcessExecutor`: where it evaluates by
  default.
- `Plan`, `Study`: what a search is to do, and its record, open for writing; `load_trials`,
  `load_objectives`, `load_settings` read a stored one.
- `Evaluator`, `Evaluation`: what a candidate is asked for; the search knows nothing else of it.
- `CandidateEvaluator`: the evaluator of detectors.
- `Trial`, `Front`, `non_dominated`: one evaluation, and the result with its pick.
- `NSGA2`, `TPE`: the optimizers by ask and tell, without record; `Optimizer`: what they share.
  `SAMPLERS`, `Sampler`: the same by name.
"""

from autopatch.search.candidates import CandidateEvaluator
from autopatch.search.evaluation import Evaluation, Evaluator
from autopatch.search.executor import InProcessExecutor
from autopatch.search.front import Front, Trial, non_dominated
from autopatch.search.loop import SearchError, SearchProgress, search
from autopatch.search.nsga2 import NSGA2
from autopatch.search.objectives import (
    DEFAULT_OBJECTIVES,
    OBJECTIVES,
    FittedCandidate,
    Objective,
    resolve_objectives,
)
from autopatch.search.optimizer import SAMPLERS, Optimizer, Sampler
from autopatch.search.space import SearchSpace, compose_genes, compose_space
from autopatch.search.study import (
    Plan,
    Study,
    load_objectives,
    load_settings,
    load_trials,
)
from autopatch.search.tpe import TPE

__all__ = [
    "DEFAULT_OBJECTIVES",
    "NSGA2",
    "OBJECTIVES",
    "SAMPLERS",
    "TPE",
    "CandidateEvaluator",
    "Evaluation",
    "Evaluator",
    "FittedCandidate",
    "Front",
    "InProcessExecutor",
    "Objective",
    "Optimizer",
    "Plan",
    "Sampler",
    "SearchError",
    "SearchProgress",
    "SearchSpace",
    "Study",
    "Trial",
    "compose_genes",
    "compose_space",
    "load_objectives",
    "load_settings",
    "load_trials",
    "non_dominated",
    "resolve_objectives",
    "search",
]
