"""`published_study.sql` is a dump of a database that Optuna 3.1.0 made.

Two studies of made-up values, TPESampler(seed=0, multivariate=True, constant_liar=True) over the
parameters of the published search: six trials over all, the fourth of which raised, and three with
the supernet, the kernel sizes and the expand ratios fixed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sysconfig
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autopatch.detector import Architecture, Head, Input
from autopatch.errors import InputError
from autopatch.published.once_for_all import backbone_cost
from autopatch.published.space import published_space
from autopatch.published.studies import PublishedTrials, load_published
from autopatch.search import TPE, Score, SearchSpace
from autopatch.search.storage import quiet
from autopatch.supernet import Backbone

NARROW, WIDE = "ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2"
FULL, FIXED = "bottle_seed0", "bottle_seed0_fixed"
ABLATION = {"network": WIDE, "kernel_size": 7, "expand_ratio": 6}


@pytest.fixture(scope="module")
def published() -> SearchSpace:
    return published_space()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "studies.db"
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("published_study.sql").read_text())
    connection.close()
    return path


@pytest.fixture(scope="module")
def upgraded(original: Path) -> Path:
    path = original.with_name("upgraded.db")
    shutil.copy(original, path)
    storage = RDBStorage(f"sqlite:///{path}", skip_compatibility_check=True)
    with quiet():
        storage.upgrade()
    storage.remove_session()
    storage.engine.dispose()
    return path


def changed(path: Path, tmp_path: Path, statement: str) -> Path:
    copy = tmp_path / "changed.db"
    shutil.copy(path, copy)
    connection = sqlite3.connect(copy)
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    return copy


def test_trials_as_optuna_3_1_wrote_them(upgraded: Path, published: SearchSpace) -> None:
    before = upgraded.read_bytes()
    found = load_published(upgraded, published, studies=[FULL])
    assert upgraded.read_bytes() == before
    assert {path.name for path in upgraded.parent.iterdir()} == {"studies.db", "upgraded.db"}
    assert found.others == 1
    assert [trial.number for trial in found.trials] == [0, 1, 2, 4, 5]
    assert {trial.study for trial in found.trials} == {FULL}
    # Stages 2 and 3 are run, but no level; patch sizes of theirs do not count.
    setting = {"kernel_size": (5, 7, 3, 5, 3), "expand_ratio": (6, 4, 4, 3, 6)}
    assert found.trials[2].architecture == Architecture(
        Input(224), Backbone(WIDE, (1, 6, 17), setting), Head((7, 10, 14), None)
    )
    # Nor does anything of the last stage, behind the deepest level.
    assert found.trials[1].architecture.backbone.levels == (4, 8, 11, 13)
    assert found.trials[1].architecture.backbone.setting["kernel_size"] == (3, 3, 7, 5)
    assert found.trials[2].flops == 192_000_000
    assert found.trials[2].rwap == 0.24
    assert found.trials[2].metrics == {"val_wAP": 0.24, "test_wAP": 17 / 64}
    assert found.trials[2].cost == backbone_cost(found.trials[2].architecture.backbone, 224)
    assert found.trials[2].describe() == (
        "224 px, w1.2, kernels 5 7 3 5 3, ratios 6 4 4 3 6, block 1 p7 + block 6 p10 + block 17 "
        "p14, all patches"
    )


def test_the_published_space_is_the_default(upgraded: Path, published: SearchSpace) -> None:
    expected = load_published(upgraded, published, fixed=ABLATION)
    assert load_published(str(upgraded), fixed=ABLATION) == expected
    assert load_published(upgraded, space=published, fixed=ABLATION) == expected


def test_fixed_parameters(upgraded: Path, published: SearchSpace) -> None:
    with pytest.raises(
        InputError, match=rf"study {FIXED}, trial 0: it has no supernet_name; .* `fixed`$"
    ):
        load_published(upgraded, published)
    found = load_published(upgraded, published, fixed=ABLATION | {"stage_1_kernel_size": 3})
    ablated = [trial.architecture.backbone for trial in found.trials if trial.study == FIXED]
    assert [backbone.network for backbone in ablated] == [WIDE] * 3
    assert ablated[1].setting == {"kernel_size": (7, 3, 7, 7, 7), "expand_ratio": (6,) * 5}
    # A parameter that a trial has is its own.
    full = load_published(upgraded, published, studies=[FULL])
    assert tuple(trial for trial in found.trials if trial.study == FULL) == full.trials
    assert found.trials[1].architecture.backbone.network == NARROW
    assert len(found.trials) == 8


def test_fixed_parameters_of_the_space(upgraded: Path, published: SearchSpace) -> None:
    with pytest.raises(InputError, match="no gene or field depth"):
        load_published(upgraded, published, fixed=ABLATION | {"depth": 4})
    with pytest.raises(InputError, match="stage_0_kernel_size has no choice 9, expected"):
        load_published(upgraded, published, fixed=ABLATION | {"kernel_size": 9})


def test_no_such_study(upgraded: Path, published: SearchSpace) -> None:
    with pytest.raises(
        InputError, match=rf"has no study 'birds', expected one of \['{FULL}', '{FIXED}'\]"
    ):
        load_published(upgraded, published, studies=[FULL, "birds"])
    assert load_published(upgraded, published, studies=[]) == PublishedTrials((), 0)


def test_another_version_of_optuna(
    original: Path, upgraded: Path, published: SearchSpace, tmp_path: Path
) -> None:
    before = original.read_bytes()
    with pytest.raises(
        InputError,
        match=r"another version of Optuna \(tables v3\.0\.0\.d, expected .*\); run `.*`, and ",
    ):
        load_published(original, published)
    assert original.read_bytes() == before
    later = changed(upgraded, tmp_path, "UPDATE alembic_version SET version_num = 'v99'")
    with pytest.raises(InputError, match=r"\(tables v99, expected .*\); update Optuna$"):
        load_published(later, published)


def test_the_advice_of_an_upgrade_can_be_run_as_it_is(
    original: Path, upgraded: Path, published: SearchSpace, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    old = folder / "studies.db"
    shutil.copy(original, old)
    with pytest.raises(InputError) as caught:
        load_published(old, published)
    command = str(caught.value).split("`")[1]
    scripts = {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, **scripts})
    assert old.read_bytes() == original.read_bytes()
    new = load_published(folder / "studies-upgraded.db", published, studies=[FULL])
    assert new == load_published(upgraded, published, studies=[FULL])


def test_not_a_study_database(tmp_path: Path, published: SearchSpace) -> None:
    with pytest.raises(InputError, match=r"absent\.db: no such file"):
        load_published(tmp_path / "absent.db", published)
    path = tmp_path / "file.db"
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 20)
    with pytest.raises(InputError, match="not a readable SQLite database"):
        load_published(path, published)
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE studies (study_name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"without Optuna's tables \['alembic_version', 'trials'"):
        load_published(path, published)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE trial_params SET param_name = 'stage_5_block' WHERE param_id = 4",
            f"study {FULL}, trial 0: search space ofa_mbv3: it has no gene stage_5_block",
        ),
        (
            "DELETE FROM trial_params WHERE param_name = 'stage_0_block'",
            f"study {FULL}, trial 0: it has no stage_0_block; .* `fixed`$",
        ),
        (
            "UPDATE trial_params SET param_value = 0 WHERE param_name LIKE '%block'",
            f"study {FULL}, trial 0: backbone: no level is chosen",
        ),
        ("UPDATE trial_values SET value = 0.5 WHERE objective = 0", "trial 0: FLOPs are 0.5"),
        ("UPDATE trial_values SET value = 53 WHERE objective = 1", "trial 0: wAP is 53.0"),
        (
            "UPDATE study_directions SET direction = 'MINIMIZE'",
            rf"study {FULL} has the directions \['MINIMIZE', 'MINIMIZE'\]",
        ),
        ("DELETE FROM trial_values", "trial 0: its values are None, expected FLOPs and wAP"),
    ],
)
def test_trials_that_are_not_of_the_space(
    upgraded: Path, published: SearchSpace, tmp_path: Path, statement: str, message: str
) -> None:
    path = changed(upgraded, tmp_path, statement)
    with pytest.raises(InputError, match=message) as caught:
        load_published(path, published, fixed=ABLATION)
    assert "\n" not in str(caught.value)


def test_tpe_begins_as_the_published_search(upgraded: Path, published: SearchSpace) -> None:
    study = optuna.load_study(study_name=FULL, storage=f"sqlite:///{upgraded}")
    optimizer = TPE(published, seed=0)
    for recorded in study.trials:
        (genome,) = optimizer.ask()
        assert genome == published.genome(recorded.params)
        optimizer.tell([Score((float(recorded.number), 0.5))])
    proposed = optimizer._study.trials
    assert [trial.params for trial in proposed] == [trial.params for trial in study.trials]
    assert [trial.distributions for trial in proposed] == [t.distributions for t in study.trials]
    assert [trial.state for trial in proposed] == [TrialState.COMPLETE] * 6
