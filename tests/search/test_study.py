from __future__ import annotations

import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from autopatch.errors import InputError
from autopatch.search import (
    Evaluation,
    Objective,
    Plan,
    SearchSpace,
    Study,
    load_settings,
    load_study,
    load_trials,
    resolve_objectives,
)

OTHER = Objective("cost", "made-up cost", "EUR", 1.0, "minimize", lambda fitted: 1.0)
EVALUATION = Evaluation(
    values={"total_flops": 2**53 - 1, "rwAP": 0.1 + 0.2},
    metrics={"rwAP": 0.1 + 0.2, "AP": 1 / 3},
    timings={"fit": 0.125},
    reuse={"feature_maps": 0.75},
    resampled={"rwAP": (0.25, 1 / 3)},
)


def optuna_study(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="autopatch", storage=f"sqlite:///{path}")


def test_read_back(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    genomes = [(0, 4, 1, 2, 0, 0, 0, 0, 1, 3), (1, 0, 0, 0, 1, 0, 0, 0, 0, 0)]
    with Study.create(path, Plan(space, evaluations=5)) as study:
        study.complete(study.start(genomes[0], 0), EVALUATION)
        study.fail(study.start(genomes[1], 1), "RuntimeError: too large")
        study.start(genomes[0], 0)
        trials = study.trials()
    assert load_trials(path) == trials
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert [trial.genome for trial in trials] == [*genomes, genomes[0]]
    assert [trial.place for trial in trials] == [0, 1, 0]
    assert [trial.architecture for trial in trials] == [
        space.decode(genome) for genome in (*genomes, genomes[0])
    ]
    assert [trial.evaluation for trial in trials] == [EVALUATION, None, None]
    assert [trial.reason for trial in trials] == [None, "RuntimeError: too large", "not finished"]
    assert trials[0].duration > 0.0
    assert trials[2].duration == 0.0


def test_what_optuna_sees(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=5, settings={"data": "tiles"})) as study:
        study.complete(study.start((0, 4, 1, 2, 0, 0, 0, 0, 1, 3), 0), EVALUATION)
        study.fail(study.start((0, 0, 0, 0, 1, 0, 0, 0, 0, 0), 1), "ValueError")
    seen = optuna_study(path)
    assert [direction.name for direction in seen.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert seen.metric_names == ["total_flops", "rwAP"]
    assert seen.user_attrs["data"] == "tiles"
    complete, failed = seen.trials
    assert complete.state == TrialState.COMPLETE
    assert complete.values == [2**53 - 1, 0.1 + 0.2]
    assert complete.params == space.parameters((0, 4, 1, 2, 0, 0, 0, 0, 1, 3))
    assert complete.distributions["bank_size"] == CategoricalDistribution(
        (500, 1000, 2000, 5000, None)
    )
    assert complete.user_attrs["metrics.AP"] == 1 / 3
    assert complete.user_attrs["timings.fit"] == 0.125
    assert complete.user_attrs["reuse.feature_maps"] == 0.75
    assert complete.user_attrs["resampled.rwAP"] == [0.25, 1 / 3]
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["reason"] == "ValueError"
    assert "patch_size_0" not in failed.params


def test_odd_folder_name(tmp_path: Path, space: SearchSpace) -> None:
    folder = tmp_path / "a b 100% %23 what?x=1 {SCHEMA} #1 ü@x"
    folder.mkdir()
    with Study.create(folder / "study.db", Plan(space, evaluations=5)) as study:
        study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0)
    assert len(load_trials(folder / "study.db")) == 1
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.name for path in folder.iterdir()] == ["study.db"]


def test_says_nothing(
    tmp_path: Path, space: SearchSpace, capfd: pytest.CaptureFixture[str]
) -> None:
    verbosity = optuna.logging.get_verbosity()
    with Study.create(tmp_path / "study.db", Plan(space, evaluations=5)) as study:
        study.complete(study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0), EVALUATION)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == verbosity


def test_settings_are_stored(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    initial = [space.decode((0, 4, 1, 2, 0, 0, 0, 0, 1, 3))]
    plan = Plan(
        space,
        evaluations=5,
        seed=7,
        population=4,
        initial=initial,
        sampler="tpe",
        objectives=(OTHER, *resolve_objectives(["rwAP"])),
        settings={"sizes": (1, 2), "weights": {"file": "w.safetensors", "mean": None}},
        unchecked={"data": "/data", "table": None},
    )
    Study.create(path, plan).close()
    assert load_settings(path) == {
        "space": space.to_json(),
        "evaluations": 5,
        "seed": 7,
        "population": 4,
        "rule": "best",
        "initial": [[0, 4, 1, 2, 0, 0, 0, 0, 1, 3]],
        "sampler": "tpe",
        "format": 7,
        "objectives": [
            {
                "name": "cost",
                "label": "made-up cost",
                "unit": "EUR",
                "scale": 1.0,
                "direction": "minimize",
            },
            {"name": "rwAP", "label": "rwAP", "unit": "%", "scale": 0.01, "direction": "maximize"},
        ],
        "constraints": [],
        "latency_table": None,
        "unchecked": {"data": "/data", "table": None},
        "sizes": [1, 2],
        "weights": {"file": "w.safetensors", "mean": None},
    }
    assert optuna_study(path).metric_names == ["cost", "rwAP"]


def test_resume_with_the_same_settings_and_more_evaluations(
    tmp_path: Path, space: SearchSpace
) -> None:
    path = tmp_path / "study.db"
    settings = {"sizes": (1, 2)}
    Study.create(path, Plan(space, evaluations=5, settings=settings)).close()
    Study.resume(path, Plan(space, evaluations=5, settings=settings)).close()
    Study.resume(path, Plan(space, evaluations=8, settings=settings | {"none": {}})).close()
    assert load_settings(path)["evaluations"] == 8


def test_resume_where_files_were_moved(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5, unchecked={"data": "here", "x": 1})).close()
    Study.resume(path, Plan(space, evaluations=5, unchecked={"data": "there"})).close()
    assert load_settings(path)["unchecked"] == {"data": "there"}


def test_resume_with_objectives_displayed_otherwise(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5)).close()
    flops, rwap = resolve_objectives(["total_flops", "rwAP"])
    renamed = replace(flops, label="FLOPs", unit="MFLOP", scale=1e6)
    Study.resume(path, Plan(space, evaluations=5, objectives=(renamed, rwap))).close()
    assert load_study(path).objectives == (flops, rwap)


def test_objectives_that_are_not_registered(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    evaluation = Evaluation({"cost": -0.5})
    with Study.create(path, Plan(space, evaluations=5, objectives=(OTHER,))) as study:
        study.complete(study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0), evaluation)
    assert load_study(path).objectives == (OTHER,)
    assert load_trials(path)[0].evaluation == evaluation


def test_study_of_an_earlier_version(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5)).close()
    # What autopatch 0.1 wrote: an empty study differs in its settings alone.
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM study_user_attributes WHERE key IN ('format', 'objectives')")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    expected = (
        f"{path}: a search of an earlier version of autopatch; search again, or read it with "
        "autopatch 0.1"
    )
    for read in (load_trials, load_settings, load_study):
        with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
            read(path)
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        Study.resume(path, Plan(space, evaluations=5))
    assert path.read_bytes() == before


def test_study_of_a_later_version(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5)).close()
    optuna_study(path).set_user_attr("format", 8)
    with pytest.raises(InputError, match=r"not a readable study .*format is 8, expected 7"):
        load_trials(path)
    optuna_study(path).set_user_attr("format", 2)
    with pytest.raises(InputError, match=r"a search of an earlier version of autopatch; search ag"):
        load_trials(path)


SETTINGS: dict[str, Any] = {
    "evaluations": 5,
    "settings": {"weights": {"file": "a", "mean": [1], "own": {"kwargs": {"pad": 0}}}},
}
UPHILL = (
    replace(resolve_objectives(["total_flops"])[0], direction="maximize"),
    *resolve_objectives(["rwAP"]),
)


def settings_with(**weights: object) -> dict[str, Any]:
    return {"settings": {"weights": SETTINGS["settings"]["weights"] | weights}}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace) -> Path:
    path = tmp_path_factory.mktemp("stored") / "study.db"
    Study.create(path, Plan(space, **SETTINGS)).close()
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluations": 4}, "evaluations = 5, cannot resume it with 4"),
        ({"seed": 1}, "seed = 0, cannot resume it with 1"),
        ({"population": 6}, "population = 12, cannot resume it with 6"),
        ({"sampler": "tpe"}, 'sampler = "gp", cannot resume it with "tpe"'),
        (
            {"objectives": (OTHER, *resolve_objectives(["rwAP"]))},
            'objectives = ["total_flops", "rwAP"], cannot resume it with ["cost", "rwAP"]',
        ),
        (
            {"objectives": resolve_objectives(["rwAP"])},
            'objectives = ["total_flops", "rwAP"], cannot resume it with ["rwAP"]',
        ),
        (
            {"objectives": UPHILL},
            'direction of total_flops = "minimize", cannot resume it with "maximize"',
        ),
        (settings_with(mean=[2]), "mean = [1], cannot resume it with [2]"),
        (
            settings_with(own={"kwargs": {"pad": 1}}),
            'kwargs = {"pad": 0}, cannot resume it with {"pad": 1}',
        ),
        (settings_with(own={"kwargs": {}}), 'kwargs = {"pad": 0}, cannot resume it with {}'),
        (settings_with(own={}), 'kwargs = {"pad": 0}, cannot resume it with nothing'),
        ({"settings": {"weights": {"mean": [1]}}}, 'file = "a", cannot resume it with nothing'),
        ({"settings": {"weights": {}}}, 'file = "a", cannot resume it with nothing'),
        ({"settings": {}}, 'file = "a", cannot resume it with nothing'),
        ({"settings": SETTINGS["settings"] | {"x": 1}}, "x = nothing, cannot resume it with 1"),
    ],
)
def test_resume_with_other_settings(
    stored: Path, space: SearchSpace, change: dict[str, Any], message: str
) -> None:
    before = stored.read_bytes()
    name, _, values = message.partition(" = ")
    expected = f"{stored}: the search was started with `{name}` = {values}"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        Study.resume(str(stored), Plan(space, **(SETTINGS | change)))
    assert stored.read_bytes() == before


def changed(space: SearchSpace, index: int, **fields: object) -> SearchSpace:
    """The space with other fields of a gene."""
    genes = list(space.genes)
    genes[index] = replace(genes[index], **fields)  # type: ignore[arg-type]
    return replace(space, genes=tuple(genes))


def refusal(path: Path, space: SearchSpace) -> str:
    with pytest.raises(InputError) as caught:
        Study.resume(path, Plan(space, **SETTINGS))
    message = str(caught.value).removeprefix(f"{path}: the search was started with ")
    return message.replace("`", "")


def test_resume_with_another_space(
    stored: Path, space: SearchSpace, small_space: SearchSpace
) -> None:
    assert refusal(stored, changed(space, 5, choices=(1, 3))) == (
        "patch_size_1 = [1, 3, 5, 7], cannot resume it with [1, 3]"
    )
    assert refusal(stored, changed(space, 1, choices=(1, 2))) == (
        "bank_size = [500, 1000, 2000, 5000, null], cannot resume it with [1, 2]"
    )
    assert refusal(stored, replace(space, name="timm:y")) == (
        'space = "timm:x", cannot resume it with "timm:y"'
    )
    sizes = "image_size = [160, 224, 288], cannot resume it with "
    assert refusal(stored, small_space) == sizes + "[32, 64]"
    fixed = SearchSpace(space.name, space.genes[1:], {"input.image_size": 224})
    assert refusal(stored, fixed) == sizes + "224"
    assert refusal(stored, replace(space, genes=space.genes[:-2])) == (
        "use_level_3 = [false, true], cannot resume it with nothing"
    )


def test_resume_with_genes_that_mean_something_else(stored: Path, space: SearchSpace) -> None:
    assert refusal(stored, replace(space, genes=space.genes[::-1])).startswith(
        'genes = ["image_size", "bank_size", "use_level_0", '
    )
    assert refusal(stored, changed(space, 5, active_if=())) == (
        'active_if of gene patch_size_1 = ["use_level_1"], cannot resume it with []'
    )


def test_resume_with_more_genes(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    two = replace(space, genes=space.genes[:-4])
    Study.create(path, Plan(two, evaluations=5)).close()
    with pytest.raises(
        InputError, match=r"`use_level_2` = nothing, cannot .* with \[false, true\]$"
    ):
        Study.resume(path, Plan(space, evaluations=5))


def test_resume_with_other_initial_architectures(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    first, second = (space.decode((0, bank, 1, 2, 0, 0, 0, 0, 1, 3)) for bank in (3, 4))
    Study.create(path, Plan(space, evaluations=5, initial=[first])).close()
    Study.resume(path, Plan(space, evaluations=5, initial=[first])).close()
    with pytest.raises(
        InputError,
        match=r'with `initial` = {"bank_size": 5000}, cannot resume it with {"bank_size": null}$',
    ):
        Study.resume(path, Plan(space, evaluations=5, initial=[second]))
    with pytest.raises(InputError, match=r'`initial` = nothing, .* with {"image_size": 160, "bank'):
        Study.resume(path, Plan(space, evaluations=5, initial=[first, second]))
    # Genomes of another space would say nothing.
    other = changed(space, 0, choices=(128, 160))
    with pytest.raises(InputError, match=r"`image_size` = \[160, 224, 288\], .* \[128, 160\]$"):
        Study.resume(path, Plan(other, evaluations=5, initial=[first]))


def test_resume_of_a_damaged_record(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5)).close()
    optuna_study(path).set_user_attr("space", {"name": "timm:x"})
    with pytest.raises(InputError, match=r"not a readable study of a search \('genes'\)"):
        Study.resume(path, Plan(space, evaluations=5))


def test_paths_as_text(tmp_path: Path, space: SearchSpace) -> None:
    path = str(tmp_path / "study.db")
    with Study.create(path, Plan(space, evaluations=5)) as study:
        study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0)
        assert study.path == Path(path)
    with Study.resume(path, Plan(space, evaluations=5)) as study:
        assert study.path == Path(path)
    assert len(load_trials(path)) == 1
    assert load_settings(path)["evaluations"] == 5
    assert [objective.name for objective in load_study(path).objectives] == ["total_flops", "rwAP"]


def test_resume_ends_orphans(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=5)) as study:
        study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0)
    with Study.resume(path, Plan(space, evaluations=5)) as study:
        assert [trial.reason for trial in study.trials()] == ["interrupted"]
    assert optuna_study(path).trials[0].state == TrialState.FAIL


def test_create_replaces_nothing(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists, expected a new file"):
        Study.create(path, Plan(space, evaluations=5))
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="no such folder"):
        Study.create(tmp_path / "absent" / "study.db", Plan(space, evaluations=5))
    assert list(tmp_path.iterdir()) == [path]


def test_create_is_all_or_nothing(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: optuna.Study, name: str, value: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "study.db"
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", killed)
        with pytest.raises(KeyboardInterrupt):
            Study.create(path, Plan(space, evaluations=5))
    assert not path.exists()
    Study.create(path, Plan(space, evaluations=5)).close()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("evaluations", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("population", 1, "at least 2"),
        ("sampler", "random", "one of 'gp', 'nsga2', 'tpe'"),
    ],
)
def test_plans_out_of_range(
    space: SearchSpace, argument: str, value: object, expected: str
) -> None:
    arguments: dict[str, Any] = {"evaluations": 5} | {argument: value}
    with pytest.raises(
        InputError, match=rf"^`?{argument}`? is {re.escape(f'{value!r}, expected {expected}')}"
    ):
        Plan(space, **arguments)


@pytest.mark.parametrize("names", [[], ["rwAP", "rwAP"]])
def test_a_plan_has_distinct_objectives(space: SearchSpace, names: list[str]) -> None:
    rwap = resolve_objectives(["rwAP"])
    with pytest.raises(InputError, match=r"`objectives` are \["):
        Plan(space, evaluations=5, objectives=rwap * len(names))


@pytest.mark.parametrize("name", ["seed", "format", "unchecked"])
def test_settings_cannot_shadow_the_plan(space: SearchSpace, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        Plan(space, evaluations=5, settings={name: 1})


def test_a_space_smaller_than_the_plan(small_space: SearchSpace) -> None:
    assert Plan(small_space, evaluations=50).total == 16
    assert Plan(small_space, evaluations=5).total == 5


def test_initial_architectures_are_of_the_space(
    tmp_path: Path, space: SearchSpace, small_space: SearchSpace
) -> None:
    plan = Plan(small_space, evaluations=5, initial=[space.decode((0, 4, 1, 2) + (0,) * 6)])
    with pytest.raises(InputError, match="image_size has no choice 160"):
        Study.create(tmp_path / "study.db", plan)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_not_made(tmp_path: Path, space: SearchSpace) -> None:
    path = tmp_path / "study.db"
    for read in (load_trials, load_settings):
        with pytest.raises(InputError, match="no such file"):
            read(path)
    with pytest.raises(InputError, match="no such file"):
        Study.resume(path, Plan(space, evaluations=5))
    assert list(tmp_path.iterdir()) == []


def test_foreign_files(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is not a database, and long enough to be told from an empty one" * 9)
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.commit()
    connection.close()
    empty = tmp_path / "empty.db"
    empty.touch()
    for path in (text, foreign, empty):
        before = path.read_bytes()
        with pytest.raises(InputError, match=r"not the study of a search \(") as caught:
            load_trials(path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


def test_study_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    other = optuna.create_study(study_name="birds", storage=storage)
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match=r"holds the studies \['birds'\]"):
        load_trials(path)
    mine = optuna.create_study(study_name="autopatch", storage=storage)
    mine.add_trial(optuna.trial.create_trial(value=1.0))
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(InputError, match="not a readable study"):
        load_trials(path)


@pytest.mark.parametrize("reason", ["unable to open database file", "database is locked"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    path = tmp_path / "study.db"
    Study.create(path, Plan(space, evaluations=5)).close()
    connect = sqlite3.connect
    for allowed in (0, 1):  # our own connection, and Optuna's
        connections = iter([connect] * allowed)

        def failing(*arguments: Any, **options: Any) -> sqlite3.Connection:
            for make in connections:  # noqa: B023
                return make(*arguments, **options)
            raise sqlite3.OperationalError(reason)

        monkeypatch.setattr(sqlite3, "connect", failing)
        with pytest.raises(InputError, match=f"^{path}: cannot be read: {reason}$"):
            load_trials(path)


def test_a_record_that_cannot_be_read_while_a_failure_is_recorded(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(trial_id: int) -> Any:
        raise StorageInternalError("commit") from sqlite3.OperationalError("disk I/O error")

    path = tmp_path / "study.db"
    with Study.create(path, Plan(space, evaluations=5)) as study:
        number = study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0)
        monkeypatch.setattr(study._storage, "get_trial", failing)
        with pytest.raises(InputError, match=f"^{path}: cannot be read: disk I/O error$"):
            study.fail(number, "MemoryError", "memory")


def test_only_running_trials_are_interrupted(tmp_path: Path, space: SearchSpace) -> None:
    with Study.create(tmp_path / "study.db", Plan(space, evaluations=5)) as study:
        study.complete(study.start((0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0), EVALUATION)
        study.start((0, 1, 1, 0, 0, 0, 0, 0, 0, 0), 1)
        study.interrupt()
        study.interrupt()
        assert [trial.reason for trial in study.trials()] == [None, "interrupted"]
