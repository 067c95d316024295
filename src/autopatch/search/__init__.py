"""Multi-objective search: a sampler over a search space, recorded in an Optuna study.

- `SearchSpace`: the genomes and the architectures they encode. `compose_space` builds the space of
  a supernet, `compose_genes` builds one from a list of backbone genes.
- `Objective`, `OBJECTIVES`, `resolve_objectives`: what is minimized or maximized, by name.
  `FittedCandidate`: the detector that objectives are measured on. `DEFAULT_OBJECTIVES`: names of
  the default objectives.
- `Constraint`, `resolve_constraints`: bounds on what objectives measure.
- `LatencyTable`, `measure_table`: the latency of candidates on one machine; more in `latency`.
- `search`: the loop; proposes, evaluates, records, and resumes by replay. `SearchError`: all
  candidates failed. `SearchProgress`: its callback. `InProcessExecutor`: the default executor.
- `Plan`: the settings of a search. `check_settings`: checks some of them before there is a space.
  `Study`: its record, open for writing. `load_study` reads a stored record (`StoredStudy`),
  `load_trials` and `load_settings` a part of it.
- `Evaluator`: the function that evaluates a candidate. `Evaluation`: its result.
- `CandidateEvaluator`: the evaluator that fits and scores detectors. `SharedWork`: the work that
  its candidates share.
- `Trial`: one recorded evaluation. `Front`: the result of a search, with its pick. `non_dominated`:
  the Pareto front of trials. `failed_candidates`: the failures among trials. `none_feasible`: that
  no trial meets the constraints, in words.
- `RULES`, `Rule`: how a trial of the front is picked, by name.
- `GP`, `NSGA2`, `TPE`: optimizers with an ask/tell interface; `Optimizer`: that interface.
  `SAMPLERS`, `Sampler`: optimizers by name.
"""

from autopatch.search.candidates import CandidateEvaluator
from autopatch.search.constraints import Constraint, resolve_constraints
from autopatch.search.evaluation import Evaluation, Evaluator
from autopatch.search.executor import InProcessExecutor
from autopatch.search.feature_maps import SharedWork
from autopatch.search.front import Front
from autopatch.search.gp import GP
from autopatch.search.latency import LatencyTable, measure_table
from autopatch.search.loop import SearchError, SearchProgress, search
from autopatch.search.nsga2 import NSGA2
from autopatch.search.objectives import (
    DEFAULT_OBJECTIVES,
    OBJECTIVES,
    FittedCandidate,
    Objective,
    resolve_objectives,
)
from autopatch.search.optimizer import SAMPLERS, Optimizer, Sampler, Score
from autopatch.search.rules import RULES, Rule
from autopatch.search.shots import can_be_left_out
from autopatch.search.space import SearchSpace, compose_genes, compose_space
from autopatch.search.study import (
    Plan,
    StoredStudy,
    Study,
    check_settings,
    load_settings,
    load_study,
    load_trials,
)
from autopatch.search.tpe import TPE
from autopatch.search.trials import Trial, failed_candidates, non_dominated, none_feasible

__all__ = [
    "DEFAULT_OBJECTIVES",
    "GP",
    "NSGA2",
    "OBJECTIVES",
    "RULES",
    "SAMPLERS",
    "TPE",
    "CandidateEvaluator",
    "Constraint",
    "Evaluation",
    "Evaluator",
    "FittedCandidate",
    "Front",
    "InProcessExecutor",
    "LatencyTable",
    "Objective",
    "Optimizer",
    "Plan",
    "Rule",
    "Sampler",
    "Score",
    "SearchError",
    "SearchProgress",
    "SearchSpace",
    "SharedWork",
    "StoredStudy",
    "Study",
    "Trial",
    "can_be_left_out",
    "check_settings",
    "compose_genes",
    "compose_space",
    "failed_candidates",
    "load_settings",
    "load_study",
    "load_trials",
    "measure_table",
    "non_dominated",
    "none_feasible",
    "resolve_constraints",
    "resolve_objectives",
    "search",
]
