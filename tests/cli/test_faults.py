"""A full, read-only or forbidden disk at every write of every command.

The writes are found by running a command once; then the command runs once for each place in the
code that writes, and fails from the first write of that place on.
"""

import builtins
import errno
import functools
import io
import itertools
import os
import shutil
import sqlite3
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import autopatch as package
from autopatch.data import draw_textures
from autopatch.detector import METRICS, Detector
from autopatch.files import write_bytes_atomically
from autopatch.published.space import published_space
from autopatch.published.studies import PublishedTrial
from autopatch.published.weights import OFFICIAL, official_weights
from autopatch.report import Cases
from autopatch.runs import Run, SupernetSource
from autopatch.runs import results as test_results
from autopatch.runs import run as runs_run
from autopatch.search import CandidateEvaluator, Evaluation, load_trials

PACKAGE = str(Path(package.__file__).parent)
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES)
SQLITE = {
    errno.ENOSPC: "database or disk is full",
    errno.EROFS: "attempt to write a readonly database",
    errno.EACCES: "disk I/O error",
}
LASTING = {  # what goes on failing
    errno.ENOSPC: {"open", "write", "mkdir", "commit"},
    errno.EROFS: {"open", "write", "mkdir", "commit", "rename", "replace", "unlink", "rmdir"},
    errno.EACCES: {"open", "write", "mkdir", "commit", "rename", "replace", "unlink", "rmdir"},
}
HIDDEN = {".partial", ".probe"}


class Faults:
    """Finds the writes below a folder, and makes one of them fail.

    A write is identified by its operation and the lines of the package that lead to it. A full disk
    and a failing database keep failing; a read-only or forbidden folder also keeps all files that
    are in it. Only a folder that cannot be synced fails once.

    Attributes:
        found: The writes of the last run, each place once, in order.
    """

    def __init__(self, root):
        self.root = str(root)
        self.found = []

    @contextmanager
    def watched(self, monkeypatch, at=None, error=0):
        self.found, self.at, self.error, self.happened = [], at, error, False
        with monkeypatch.context() as patch:
            opened, os_open, fsync, connect = io.open, os.open, os.fsync, sqlite3.connect

            def open_file(file, mode="r", *args, **kwargs):
                if not set(mode) & set("wax+") or not self.is_below(file):
                    return opened(file, mode, *args, **kwargs)
                self.meet("open", file)
                if set(mode) & set("wx") and self.fails("write"):
                    opened(file, mode, *args, **kwargs).close()
                    return opened("/dev/full", mode.replace("x", "w"), *args, **kwargs)
                return opened(file, mode, *args, **kwargs)

            def open_descriptor(path, flags, *args, **kwargs):
                if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self.is_below(path):
                    self.meet("open", path)
                return os_open(path, flags, *args, **kwargs)

            def sync(descriptor):
                path = Path(f"/proc/self/fd/{descriptor}").readlink()
                if self.is_below(path):
                    self.meet("sync folder" if path.is_dir() else "sync", path)
                fsync(descriptor)

            def of_paths(name):
                function = getattr(os, name)

                def call(path, *args, dir_fd=None, **kwargs):
                    whole = path
                    if dir_fd is not None:
                        kwargs["dir_fd"] = dir_fd
                        whole = Path(f"/proc/self/fd/{dir_fd}").readlink() / path
                    if self.is_below(whole):
                        self.meet(name, whole)
                    return function(path, *args, **kwargs)

                patch.setattr(os, name, call)

            faults = self

            class Cursor(sqlite3.Cursor):
                def execute(self, statement, *args):
                    # SQLite refuses a statement of a read-only file; other faults come later.
                    writes = statement.split()[0] in ("CREATE", "DELETE", "INSERT", "UPDATE")
                    if writes and faults.error == errno.EROFS and faults.fails("commit"):
                        raise sqlite3.OperationalError(SQLITE[faults.error])
                    return super().execute(statement, *args)

            class Connection(sqlite3.Connection):
                def cursor(self):
                    return super().cursor(Cursor)

                def commit(self):
                    if self.in_transaction and faults.fails("commit"):
                        raise sqlite3.OperationalError(SQLITE[faults.error])
                    super().commit()

            patch.setattr(io, "open", open_file)
            patch.setattr(builtins, "open", open_file)
            patch.setattr(os, "open", open_descriptor)
            patch.setattr(os, "fsync", sync)
            patch.setattr(sqlite3, "connect", functools.partial(connect, factory=Connection))
            for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
                of_paths(name)
            yield

    def is_below(self, path):
        return not isinstance(path, int) and os.fspath(path).startswith(self.root)

    def meet(self, operation, path):
        if self.fails(operation):
            self.path = path
            raise OSError(self.error, os.strerror(self.error), str(path))

    def fails(self, operation):
        if self.happened:
            return self.at[0] != "sync folder" and operation in LASTING[self.error]
        if operation in ("unlink", "rmdir"):  # they clean up after a write that failed
            return False
        lines = []
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                lines.append((frame.f_code.co_filename[len(PACKAGE) :], frame.f_lineno))
            frame = frame.f_back
        place = (operation, *lines[:3])
        if place not in self.found:
            self.found.append(place)
        self.happened = place == self.at
        return self.happened


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of a few drawn images."""
    folder = tmp_path_factory.mktemp("images") / "data"
    return draw_textures(folder, image_size=64, train=1, test_good=1, per_type=1)


@pytest.fixture
def cheap(monkeypatch):
    """Commands with a backbone that is loaded once and candidates that cost nothing."""

    def evaluate(self, architecture):
        size = architecture.input.size
        values = {o.name: 0.5 if o.is_maximized else float(size) for o in self._objectives}
        return Evaluation(values, metrics=dict.fromkeys(METRICS, 0.5))

    monkeypatch.setattr(CandidateEvaluator, "__call__", evaluate)
    monkeypatch.setattr(SupernetSource, "load", lambda self, **_: supernet(self.space))


LOAD = SupernetSource.load


@functools.cache
def supernet(space):
    return LOAD(SupernetSource.find(space, "random"), seed=0)


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "study.db") and not is_hidden(path)
    }


def is_hidden(path):
    return any(part.startswith(".") and Path(part).suffix in HIDDEN for part in path.parts)


@pytest.fixture
def check(autopatch, monkeypatch, tmp_path, cheap):
    """Runs a command with a fault at each of its writes."""

    def run(make_folder, command, allowed=lambda path: False, some=1):
        """
        Args:
            make_folder: Makes the folder that the command is run in.
            command: The arguments, given that folder.
            allowed: Whether a new file, which is whole, may stay behind.
            some: Every how many-th place is tried; 1 tries all.
        """
        folder = tmp_path / "reference"
        make_folder(folder)
        faults = Faults(folder)
        with faults.watched(monkeypatch):
            code, _, err = autopatch(*command(folder))
        assert code == 0, err
        whole = snapshot(folder)
        places = faults.found
        assert len(places) >= 4
        errors = itertools.cycle(ERRORS)
        met = set()
        for number, place in list(enumerate(places))[::some]:
            error = errno.EINVAL if place[0] == "sync folder" else next(errors)
            met.add(error)
            folder = tmp_path / f"fault{number}"
            make_folder(folder)
            before = snapshot(folder)
            trials = {db: load_trials(db) for db in folder.rglob("study.db")}
            faults = Faults(folder)
            with faults.watched(monkeypatch, place, error):
                code, _, err = autopatch(*command(folder))
            assert faults.happened, place
            for earlier in folder.rglob(".*.earlier"):  # it cannot be put back, which is said
                assert err.endswith(f"; the earlier one is now {earlier}\n")
                earlier.rename(earlier.with_name(earlier.name.split(".")[1]))
            after = snapshot(folder)
            if code == 0 and place[0] in ("sync folder", "mkdir"):  # of a folder that is there
                assert err == "", place
                assert after.keys() == whole.keys()
                continue
            assert code == 2, (place, error)
            assert err.startswith("autopatch: "), (place, err)
            assert err.count("\n") == 1, (place, err)
            assert ".partial" not in err, err
            assert {path: after.get(path) for path in before} == before, place
            for path in after.keys() - before.keys():
                assert allowed(path), (place, path)
            if error == errno.ENOSPC:  # the others keep files from being removed
                assert not [path for path in folder.rglob("*") if is_hidden(path)], place
            for database, earlier in trials.items():
                assert load_trials(database)[: len(earlier)] == earlier
            for database in folder.rglob("study.db"):
                assert not database.with_name("study.db-journal").exists()
                assert is_hidden(database) or Run.open(database.parent).evaluations
            shutil.rmtree(folder)
        assert met >= set(ERRORS)

    return run


SMALL = ("--space", "timm:test_efficientnet", "--weights", "random", "--shots", 1)
SMALL = (*SMALL, "--reserve", 2, "--population", 2, "--image-sizes", "64", "--bank-sizes", "50")
SMALL = (*SMALL, "--cost", "total_flops", "--kinds", "scratch", "--per-kind", 2)


def search_in(textures, run, evaluations, *more):
    return ("search", textures, *SMALL, "--evaluations", evaluations, "--out", run, *more)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The folder of the finished run."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def finished(run_folder, autopatch, cheap, textures):
    """A finished run with a detector, which tests copy."""
    if not run_folder.exists():
        assert autopatch(*search_in(textures, run_folder, 2))[0] == 0
        assert autopatch("fit", run_folder)[0] == 0
    return run_folder


def of_the_run(path):
    names = ("split.json", "manifest.json")
    return path in {f"run/{name}" for name in names} or path.startswith("run/synthetic/")


def test_search(check, textures):
    check(Path.mkdir, lambda folder: search_in(textures, folder / "run", 2), of_the_run)


def test_resume(check, finished, textures):
    check(
        lambda folder: shutil.copytree(finished, folder / "run"),
        lambda folder: search_in(textures, folder / "run", 3, "--resume"),
    )


def test_fit(check, finished, textures, monkeypatch):
    detector = Detector.load(finished / "detector.safetensors")
    monkeypatch.setattr(Run, "fit_architecture", lambda *_, **__: detector)
    check(
        lambda folder: shutil.copytree(finished, folder / "run"),
        lambda folder: (
            *("fit", folder / "run", "--data", textures),
            *("--out", folder / "again.safetensors"),
        ),
    )


def test_fit_of_images_with_downloaded_weights(check, finished, images, monkeypatch):
    """The weights are kept for the next time, even if the detector cannot be written."""
    detector = Detector.load(finished / "detector.safetensors")
    state = {"weight": torch.zeros(2)}
    shapes = {"weight": torch.Size([2])}

    def load(self, **_):
        official_weights(next(iter(OFFICIAL)), shapes)
        return supernet(self.space)

    def command(folder):
        monkeypatch.setenv("AUTOPATCH_CACHE", str(folder / "cache" / "new"))
        out = folder / "new.safetensors"
        return "fit", images / "train" / "good", *SMALL[:4], "--out", out

    monkeypatch.setattr("autopatch.published.weights._download", lambda *_: b"")
    monkeypatch.setattr("autopatch.published.weights._from_pickle", lambda *_: state)
    monkeypatch.setattr(SupernetSource, "load", load)
    monkeypatch.setattr(Detector, "fit", lambda *_, **__: detector)
    check(Path.mkdir, command, lambda path: path.startswith("cache/"))


def test_predict(check, finished, images):
    check(
        Path.mkdir,
        lambda folder: (
            *("predict", finished / "detector.safetensors", images / "test"),
            *("--out", folder / "new" / "results"),
        ),
    )


@pytest.fixture
def measured(finished, monkeypatch):
    """A run with test results that cost nothing; gives the function that makes a copy of it."""
    run = Run.open(finished)
    detector = Detector.load(run.detector_path)
    values = {o.name: 1.0 for o in run.objectives}
    metrics = dict.fromkeys(METRICS, 0.5)
    row = functools.partial(
        test_results.DetectorResult, values=values, metrics=metrics, label="x", milliseconds=None
    )
    found = test_results.TestResults(
        weights=detector.provenance,
        fitted=detector.architecture,
        data_digest=run.data_digest,
        objectives=run.objectives,
        rows=(
            row(kind="fitted", trial=None),
            *(row(kind="front", trial=trial.number) for trial in run.front.trials),
        ),
    )
    monkeypatch.setattr(runs_run, "evaluate_run", lambda *_, **__: found)

    def make(folder):
        shutil.copytree(finished, folder / "run")
        found.save(folder / "run")

    return make


def test_evaluate(check, measured, textures):
    check(measured, lambda folder: ("evaluate", folder / "run", "--data", textures))


CASES = Cases("Best", "", (("a", Image.new("RGB", (2, 2))),))


def write_bytes(candidates, path, **_):
    """A figure that is quick to draw."""
    write_bytes_atomically(path, b"PNG")


def test_report(check, measured, textures, monkeypatch):
    monkeypatch.setattr("autopatch.runs.report.draw_cases", lambda *_, **__: [CASES])
    monkeypatch.setattr("autopatch.report.page.pareto_figure", write_bytes)
    check(measured, lambda folder: ("report", folder / "run", "--data", textures))


def published_trial(number):
    space = published_space()
    architecture = space.decode(space.sample(np.random.default_rng(number)))
    return PublishedTrial("study", number, architecture, flops=1, rwap=0.5, metrics={})


def test_import_study(check, textures, monkeypatch):
    """import-study is a search too, so some of its writes are enough."""
    trials = [published_trial(number) for number in range(2)]
    monkeypatch.setattr("autopatch.published.imported.choose_trials", lambda *_, **__: trials)
    check(
        Path.mkdir,
        lambda folder: (
            *("import-study", "studies.db", "--data", textures, "--reserve", 2),
            *("--weights", "random", "--out", folder / "run"),
        ),
        of_the_run,
        some=8,
    )


def test_demo(check, monkeypatch, finished):
    """The functions it calls are tested above, so some of its writes are enough."""
    detector = Detector.load(finished / "detector.safetensors")
    monkeypatch.setattr(Run, "fit_architecture", lambda *_, **__: detector)
    monkeypatch.setattr(Run, "evaluate", lambda *_, **__: None)
    monkeypatch.setattr(Run, "report", lambda *_, **__: None)
    monkeypatch.setattr(test_results.TestResults, "load", lambda _: True)
    monkeypatch.setattr("autopatch.cli.app.print_results", lambda *_: None)
    small = functools.partial(draw_textures, image_size=32, train=10, test_good=2, per_type=5)
    monkeypatch.setattr("autopatch.runs.demo.draw_textures", small)
    check(
        Path.mkdir,
        lambda folder: (
            *("demo", "--out", folder / "demo", "--evaluations", 2),
            *("--space", SMALL[1], "--weights", "random"),
        ),
        lambda path: path.startswith(("demo/data/", "demo/run/")),
        some=8,
    )


def test_targets_are_checked_before_the_work(
    autopatch, finished, images, textures, monkeypatch, tmp_path
):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system")

    def work(*_, **__):
        pytest.fail("the work has begun")

    file = finished / "detector.safetensors"
    monkeypatch.setattr("autopatch.files._probe", read_only)
    monkeypatch.setattr("autopatch.runs.search.load_inputs", work)
    chosen = [published_trial(0)]  # printed first
    monkeypatch.setattr("autopatch.published.imported.choose_trials", lambda *_, **__: chosen)
    monkeypatch.setattr("autopatch.published.imported.load_inputs", work)
    monkeypatch.setattr(SupernetSource, "load", work)
    monkeypatch.setattr("autopatch.runs.demo.draw_textures", work)
    monkeypatch.setattr(Detector, "predict", work)
    monkeypatch.setattr(Detector, "fit", work)
    monkeypatch.setattr(Run, "require_same_data", work)
    for command, target in (
        (search_in(textures, tmp_path / "run", 2), tmp_path / "run"),
        (search_in(textures, finished, 2, "--resume"), finished / "study.db"),
        (("fit", finished, "--out", tmp_path / "x"), tmp_path / "x"),
        (("fit", images / "train" / "good", "--out", tmp_path / "x"), tmp_path / "x"),
        (("import-study", "x.db", "--data", textures, "--out", tmp_path / "x"), tmp_path / "x"),
        (("evaluate", finished), finished / "evaluation.json"),
        (("report", finished), finished / "report"),
        (("predict", file, images, "--out", tmp_path / "x"), tmp_path / "x"),
        (("demo", "--out", tmp_path / "x"), tmp_path / "x"),
    ):
        code, _, err = autopatch(*command)
        assert code == 2
        assert err == f"autopatch: {target}: cannot be written: Read-only file system\n"
