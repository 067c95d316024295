"""Messages name arguments in Python, and options on the command line."""

import inspect

import pytest
import typer

from autopatch.cli import arguments
from autopatch.cli.app import app
from autopatch.cli.values import (
    choices_by_name,
)
from autopatch.data import Reading, check_folder
from autopatch.errors import InputError
from autopatch.published.imported import import_study
from autopatch.runs import Run, check_deep, fit_images, run_demo, run_search, write_predictions

CALLS = {
    "search": (run_search,),
    "fit": (fit_images, Run.fit, Run.open),
    "predict": (write_predictions,),
    "evaluate": (Run.evaluate, Run.open),
    "report": (Run.report, Run.open),
    "check-data": (check_folder, Reading, check_deep),
    "demo": (run_demo,),
    "import-study": (import_study,),
    "info": (),
}
# Options of a family and choices of a space are given together in Python.
GROUPED = {
    "cost",
    "max_latency",
    "max_memory",
    "min_image_auroc",
    "timm_kwargs",
    "recalibrate_batch_norm",
    "image_size",
    "patch_size",
    "bank_size",
}
FOLDERS = {"folder", "run"}
CALLED = {"deep"}  # chooses a call


@pytest.mark.parametrize("name", CALLS)
def test_parameters_of_commands_are_arguments_of_the_calls(name):
    command = typer.main.get_command(app).commands[name]
    assert isinstance(command, arguments.Command)
    known = {p for call in CALLS[name] for p in inspect.signature(call).parameters}
    for parameter in command.params:
        argument = parameter.name.removeprefix("no_")
        assert argument in known | GROUPED | FOLDERS | CALLED | {"help"}, parameter.name


@pytest.mark.parametrize(
    ("options", "python", "command"),
    [
        ({"shots": -1}, "`shots` is -1", "--shots is -1"),
        ({"per_kind": 0}, "`per_kind` is 0", "--per-kind is 0"),
        ({"seed": -1}, "`seed` is -1", "--seed is -1"),
        ({"split_seed": -1}, "`split_seed` is -1", "--split-seed is -1"),
        ({"split_seed": 2**32}, "`split_seed` is 4294967296", "--split-seed is 4294967296"),
        ({"shots": 9}, "`shots` is 9, expected at most the `reserve`", "at most the --reserve"),
        ({"evaluations": 0}, "`evaluations` is 0", "--evaluations is 0"),
        ({"population": 1}, "`population` is 1", "--population is 1"),
        ({"cache_gib": -1}, "`cache_gib` is -1", "--cache-gib is -1"),
        ({"preset": "x"}, "`preset` is 'x'", "--space-preset is 'x'"),
        ({"device": "x"}, "`device` is 'x'", "--device is 'x'"),
        ({"legacy_order": "x"}, "`legacy_order` is x", "--legacy-order is x"),
        ({"group_regex": "("}, "`group_regex` is '('", "--group-regex is '('"),
        ({"fixed": {"a": 1}}, "`fixed`: ", "--fixed: "),
        ({"fixed": {"smoothing": 99.5}}, "smoothing is 99.5, expected", "smoothing is 99.5, ex"),
    ],
)
def test_an_argument_that_is_wrong(autopatch, textures, tmp_path, options, python, command):
    settings = {"space": "timm:test_efficientnet", "weights": "random", "reserve": 2}
    with pytest.raises(InputError) as error:
        run_search(textures, tmp_path / "run", **settings | options)
    assert python in str(error.value)

    names = {"preset": "space-preset"}
    given = []
    for name, value in (settings | options).items():
        text = ",".join(f"{k}={v}" for k, v in value.items()) if name == "fixed" else value
        given.append(f"--{names.get(name, name).replace('_', '-')}={text}")
    code, _, err = autopatch("search", textures, *given, "--out", tmp_path / "run")
    assert code == 2
    assert command in err
    assert "`" not in err
    assert not (tmp_path / "run").exists()


def test_values_of_genes():
    entries = ["a=7", "b=0.5", "c=None", "d=true", "e=ofa_w1.2"]
    values = {"a": 7, "b": 0.5, "c": None, "d": True, "e": "ofa_w1.2"}
    assert choices_by_name("--fixed", entries) == values


def test_a_folder_that_exists(autopatch, textures, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"give `resume=True` to continue .*, or another `out`"):
        run_search(textures, tmp_path / "run")
    code, _, err = autopatch("search", textures, "--out", tmp_path / "run")
    assert code == 2
    assert "give --resume to continue the search in it, or another --out" in err


def test_what_is_no_argument_of_the_command_is_left(autopatch):
    autopatch("info")
    assert arguments.in_options("see `shots` and `lock=False`") == "see `shots` and `lock=False`"
    autopatch("search", "nowhere", "--out", "x")
    assert arguments.in_options("see `shots`, `data` and `lock=False`: `fit`") == (
        "see --shots, DATA and --no-lock: `fit`"
    )
