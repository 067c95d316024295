"""The files of a run folder, and its lock."""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from filelock import FileLock, Timeout

from autopatch.data import MVTecAD, Split
from autopatch.errors import InputError
from autopatch.runs import Run, SplitRequest, SupernetSource, load_inputs, run_search
from autopatch.runs.folder import LOCK, STUDY, open_search
from autopatch.search import Plan, compose_space, load_settings


def results(run):
    return [(t.genome, t.evaluation.values, t.evaluation.metrics) for t in run.trials]


@pytest.fixture
def arguments(moved, settings):
    """The arguments that `run_search` would pass to `open_search`."""
    source = SupernetSource.find(settings["space"], settings["weights"])
    inputs = load_inputs(moved / "data", SplitRequest(shots=1, reserve=2, seed=4), source)
    space = compose_space(inputs.supernet, choices=settings["choices"])
    return {
        "inputs": inputs,
        "plan": Plan(space, evaluations=4, seed=4, population=4),
    }


def test_the_folder_gives_back_what_it_was_made_of(finished, arguments, moved):
    assert finished.split == arguments["inputs"].split
    assert finished.source == arguments["inputs"].source
    assert finished.space == arguments["plan"].space
    assert finished.objectives == arguments["plan"].objectives
    assert finished.data == moved / "data"
    assert (finished.seed, finished.evaluations) == (4, 4)
    assert finished.optimizer.startswith("gp (scipy ")
    assert len(finished.trials) == 4
    files = {path.name for path in finished.path.iterdir()}
    assert files >= {"study.db", "split.json", "manifest.json"}


def test_no_path_of_the_machine_is_kept(origin):
    for file in ("split.json", "manifest.json"):
        assert str(origin) not in (origin / "run" / file).read_text()
    paths = load_settings(origin / "run" / STUDY)["unchecked"]["paths"]
    assert paths == {"data": "../data", "weights": "../weights.safetensors"}


def test_a_path_that_begins_where_the_process_is(moved, monkeypatch):
    monkeypatch.chdir(moved)
    run = Run.open("run")
    assert run.data == moved / "data"
    assert run.source.weights == str(moved / "weights.safetensors")
    assert run.path == moved / "run"
    monkeypatch.chdir(moved / "data")
    run.require_same_data()
    assert Run.open(run.path, data="../data").data.samefile(run.data)


def test_weights_for_a_search_without_a_file_of_them(settings, moved):
    run = run_search(out=moved / "random", **settings | {"weights": "random", "evaluations": 1})
    assert Run.open(run.path, weights="random").source == run.source
    with pytest.raises(InputError, match="the search was made with 'random'"):
        Run.open(run.path, weights=settings["weights"])


HOLDER = """
import sys
from filelock import FileLock

with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(arguments, tmp_path):
    run = tmp_path / "run"
    with (
        open_search(run, resume=False, **arguments),
        pytest.raises(Timeout),
        FileLock(run / LOCK, timeout=0),
    ):
        pass
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, run / LOCK], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match="another process is searching"),
            open_search(run, resume=True, **arguments),
        ):
            pass
        other.communicate()
    with open_search(run, resume=True, **arguments):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(settings, finished, monkeypatch, tmp_path, code):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError) as error:
        run_search(out=finished.path, resume=True, **settings)
    assert str(error.value) == (
        f"{finished.path}: cannot be locked: {os.strerror(code)}; if no other process is searching "
        "in it, give `lock=False`"
    )
    again = run_search(out=finished.path, resume=True, lock=False, **settings)
    assert results(again) == results(finished)
    new = tmp_path / "new"
    with pytest.raises(InputError, match=f"^{new}: cannot be locked: .* give `lock=False`$"):
        run_search(out=new, **settings)
    assert not list(tmp_path.glob("*new*"))


def test_a_record_on_a_file_system_without_locks(settings, tmp_path, monkeypatch):
    opened = []
    connect = sqlite3.connect

    def recorded(file, **options):
        opened.append(file)
        return connect(file, **options)

    monkeypatch.setattr(sqlite3, "connect", recorded)
    asked = settings | {"evaluations": 1}
    run = run_search(out=tmp_path / "run", lock=False, **asked)
    assert len(Run.open(run.path).trials) == 1
    assert len(opened) > 2
    assert all(uri.endswith("&nolock=1") for uri in opened)
    # On a file system with locks the record is opened with them again.
    opened.clear()
    run_search(out=tmp_path / "run", resume=True, **asked)
    assert not any("nolock" in uri for uri in opened[2:])


def test_an_error_while_searching_is_not_one_of_the_lock(arguments, tmp_path):
    with (
        pytest.raises(BlockingIOError, match="the disk"),
        open_search(tmp_path / "run", resume=False, **arguments),
    ):
        raise BlockingIOError(errno.EAGAIN, "the disk")


def test_a_folder_that_exists_is_left_alone(settings, finished):
    before = (finished.path / STUDY).read_bytes()
    with pytest.raises(InputError, match="exists; give `resume=True`"):
        run_search(out=finished.path, **settings)
    assert (finished.path / STUDY).read_bytes() == before


def test_nothing_to_resume(settings, tmp_path):
    with pytest.raises(InputError, match=r"no study\.db in it, nothing to resume"):
        run_search(out=tmp_path / "run", resume=True, **settings)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(arguments, tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot be written"),
        open_search(tmp_path / "file" / "run", resume=False, **arguments),
    ):
        pass


def test_a_finished_search_resumes_to_itself(settings, finished):
    again = run_search(out=finished.path, resume=True, **settings)
    assert results(again) == results(finished)
    more = run_search(out=finished.path, resume=True, **settings | {"evaluations": 5})
    assert results(more)[:4] == results(finished)
    assert len(more.trials) == more.evaluations == 5


def test_resume_with_moved_data_and_weights_keeps_the_new_places(settings, finished, moved):
    places = {
        "data": shutil.move(moved / "data", moved.parent / "images"),
        "weights": shutil.move(moved / "weights.safetensors", moved.parent / "w.safetensors"),
    }
    run_search(out=finished.path, resume=True, **settings | places)
    again = Run.open(finished.path)
    assert again.data == moved.parent / "images"
    assert again.source.weights == str(moved.parent / "w.safetensors")


@pytest.mark.parametrize(
    ("other", "fragment"),
    [
        ({"seed": 5}, "`seed` = 4, cannot resume it with 5"),
        ({"split_seed": 5}, "`split_seed` = 4, cannot resume it with 5"),
        ({"reserve": 3}, "`reserve` = 2, cannot resume it with 3"),
        ({"population": 5}, "`population` = 4, cannot resume it with 5"),
        ({"sampler": "tpe"}, "tpe"),
        (
            {"mean": (0.1, 0.2, 0.3)},
            r"with `mean` = null, cannot resume it with \[0.1, 0.2, 0.3\]$",
        ),
        (
            {"space_options": {"timm_kwargs": {"pad_type": "same"}}},
            'with `timm_kwargs` = nothing, .* {"pad_type": "same"}$',
        ),
        (
            {"choices": {"image_size": (64, 224), "patch_size": (1, 5), "bank_size": (40, 80)}},
            r"with `patch_size_stride4` = \[1, 3\], cannot resume it with \[1, 5\]$",
        ),
        (
            {"objectives": ["published_flops", "rwAP"]},
            r'with `objectives` = \["total_flops", "rwAP"\], .* \["published_flops", "rwAP"\]$',
        ),
    ],
)
def test_a_resume_with_another_setting_names_it(settings, finished, other, fragment):
    before = (finished.path / STUDY).read_bytes()
    with pytest.raises(InputError, match=fragment) as error:
        run_search(out=finished.path, resume=True, **settings | other)
    assert "\n" not in str(error.value)
    assert "digest" not in str(error.value)
    assert (finished.path / STUDY).read_bytes() == before


def test_a_refused_resume_changes_nothing(finished, arguments):
    before = (finished.path / STUDY).read_bytes()
    split = arguments["inputs"].split
    other = arguments | {
        "inputs": replace(arguments["inputs"], split=replace(split, fit=split.fit[:-1])),
        "plan": replace(arguments["plan"], evaluations=9),
    }
    with (
        pytest.raises(InputError, match="1 image is missing: train/good/"),
        open_search(finished.path, resume=True, **other),
    ):
        pass
    assert (finished.path / STUDY).read_bytes() == before


def test_a_resume_with_images_in_another_order(finished, arguments):
    before = (finished.path / STUDY).read_bytes()
    for role in ("fit", "validation"):
        images = getattr(arguments["inputs"].split, role)
        other = replace(arguments["inputs"].split, **{role: images[::-1]})
        with (
            pytest.raises(
                InputError, match=f"data: the images of the role '{role}' are in another order"
            ) as error,
            open_search(
                finished.path,
                resume=True,
                **arguments | {"inputs": replace(arguments["inputs"], split=other)},
            ),
        ):
            pass
        assert "\n" not in str(error.value)
    assert (finished.path / STUDY).read_bytes() == before


def test_a_resume_with_a_data_set_in_another_order(settings, tmp_path):
    """The order decides the bank, even where all roles stay."""
    dataset = MVTecAD.scan(settings.pop("data"))
    asked = settings | {"protocol": "autopatch", "out": tmp_path / "run", "evaluations": 1}
    run = run_search(dataset, **asked)
    assert results(run_search(dataset, resume=True, **asked)) == results(run)
    train = dataset.train
    other = replace(dataset, train=train[:3] + train[:2:-1])
    with pytest.raises(InputError, match="the role 'fit' are in another order"):
        run_search(other, resume=True, **asked)
    order = tmp_path / "order.txt"
    order.write_text("\n".join(sample.image.name for sample in other.train))
    with pytest.raises(InputError, match=r"another order .* `legacy_order`"):
        run_search(dataset, resume=True, **asked, legacy_order=order)


@pytest.mark.parametrize("damage", ["", "{}", '{"protocol": 3}', "[1, 2"])
def test_damaged_split(finished, damage):
    (finished.path / "split.json").write_text(damage)
    with pytest.raises(InputError, match=r"split\.json|split"):
        Run.open(finished.path)


def test_another_manifest(finished):
    file = finished.path / "manifest.json"
    document = json.loads(file.read_text())
    document["entries"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=r"manifest\.json: not the manifest of this search"
    ) as error:
        Run.open(finished.path)
    assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        Run.open(finished.path)


def test_a_run_of_an_earlier_version(finished, settings):
    connection = sqlite3.connect(finished.path / STUDY)
    with connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'format'")
    connection.close()
    for use in (
        lambda: Run.open(finished.path),
        lambda: run_search(out=finished.path, resume=True, **settings),
    ):
        with pytest.raises(
            InputError, match="a search of an earlier version of autopatch"
        ) as error:
            use()
        assert "\n" not in str(error.value)


def test_a_setting_that_is_missing(finished):
    connection = sqlite3.connect(finished.path / STUDY)
    with connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'versions'")
    connection.close()
    with pytest.raises(InputError, match="a setting is missing or damaged") as error:
        Run.open(finished.path)
    assert "\n" not in str(error.value)


def test_not_a_run_folder(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a search"):
        Run.open(str(tmp_path))


def test_a_split_is_read_where_files_are_missing(finished, moved):
    path = finished.split.fit[0].image
    path.unlink()
    assert Run.open(finished.path).split == finished.split
    document = json.loads((finished.path / "split.json").read_text())
    with pytest.raises(InputError, match="missing"):
        Split.from_json(document, moved / "data")
