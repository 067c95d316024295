from pathlib import Path

from rich.progress import Progress as Bar

from autopatch.cli import console
from autopatch.cli.search import print_next


def test_the_next_commands_are_quoted_for_the_shell(capsys):
    print_next(Path("my run"))
    assert capsys.readouterr().out == (
        "next: autopatch fit 'my run', then autopatch evaluate 'my run' and autopatch report 'my "
        "run'\n"
    )


def test_text_is_printed_as_it_is(capsys):
    text = "parts[old]: a.cpp:100: bad [/b] x:x:"
    console.note(text)
    console.failure(text)
    console.table(text, ["name:x:"], [[text]])
    out, err = capsys.readouterr()
    assert err == f"autopatch: {text}\n"
    assert out.startswith(f"{text}\n{text}")
    assert out.count(text) == 3


def test_a_step_that_begins_again_is_not_finished(monkeypatch):
    bars = []

    class Recorded(Bar):
        def __init__(self, *columns, **options):
            super().__init__(*columns, **options)
            bars.append(self)

    monkeypatch.setattr(console, "Bar", Recorded)
    with console.progress() as report:
        (bar,) = bars
        report("search", 3, 9)
        report("candidate: neighbors", 1, 2)
        report("candidate: neighbors", 2, 2)
        report("search: front of 1", 4, 9)
        assert [task.finished for task in bar.tasks] == [False, True]
        report("candidate: neighbors", 1, 2)
        assert [task.finished for task in bar.tasks] == [False, False]
        assert [task.completed for task in bar.tasks] == [4, 1]
        assert [task.description for task in bar.tasks] == [
            "search: front of 1",
            "candidate: neighbors",
        ]
