from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from autopatch.data import Anomaly, Sample, Split
from autopatch.detector import TypeResult
from autopatch.errors import InputError
from autopatch.report import Candidate, Cases, Failure, Report, write_report
from autopatch.search.objectives import OBJECTIVES, Objective

MakeReport = Callable[..., Report]
VOID = {"meta", "img", "br"}


@pytest.fixture
def make_report(
    make_candidates: Callable[..., list[Candidate]],
    split: Split,
    objectives: tuple[Objective, Objective],
) -> MakeReport:
    def make(*, front: int = 4, tested: bool = True, **changes: Any) -> Report:
        candidates = make_candidates(10, front=front, test=tested)
        candidates.append(
            Candidate(
                None,
                "levels 8 and 16",
                {"total_flops": 2e9},
                is_patchcore=True,
                test={"rwAP": 0.349} if tested else None,
            )
        )
        report = Report(
            optimizer="nsga2 (pymoo 0.6.2)",
            dataset="tiles <b>",
            space="timm:mobilenetv2_100, 1,234 architectures",
            weights="weights.safetensors",
            random_features=False,
            split=split,
            seed=3,
            evaluations=11,
            objectives=objectives,
            candidates=candidates,
            failures=(Failure(10, "architecture 10", "MemoryError: <script>alert(1)</script>"),),
            threshold="threshold 2.5 from 23 good images: expected false-alarm rate 4.2%",
            fitted="trial 3",
            cases=(Cases("Best", "chosen", (('a "quoted" name', Image.new("RGB", (40, 20))),)),),
            notes=("the search ended early",),
        )
        return replace(report, **changes)

    return make


class Page(HTMLParser):
    """Collects text and attributes, and fails on tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_and_all_it_refers_to_are_there(make_report: MakeReport, tmp_path: Path) -> None:
    path = write_report(tmp_path / "run" / "report", make_report())
    page = read_page(path)
    names = [a[key] for _, a in page.tags for key in ("src", "href") if key in a]
    assert sorted(str(name) for name in names) == ["case_1_1.png", "front.csv", "pareto.png"]
    assert all((path.parent / str(name)).is_file() for name in names)
    assert {entry.name for entry in path.parent.iterdir()} == {*names, "report.html"}
    assert [entry.name for entry in path.parent.parent.iterdir()] == ["report"]


def test_values_are_escaped(make_report: MakeReport, tmp_path: Path) -> None:
    page = read_page(write_report(tmp_path / "report", make_report()))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "dent"}
    assert "tiles <b>" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "6 <dent>" in page.text
    assert any(attributes.get("alt") == 'a "quoted" name' for _, attributes in page.tags)


def test_the_page_says_on_what_the_pick_stands(make_report: MakeReport, tmp_path: Path) -> None:
    text = read_page(write_report(tmp_path / "report", make_report())).text
    assert "Its rwAP on the validation set is 35.0 %." in text
    assert "has 2 anomalous images (1 crack, 1 <dent>) beside 17 good images." in text
    assert "noisy" in text
    assert "best of the front (chosen with the test labels)" in text
    assert "the pick is 12.1 points of rwAP above the PatchCore baseline" in text
    assert "11 of 11 architectures were evaluated, of which 1 failed; 4 are on" in text
    assert "Threshold 2.5 from 23 good images" in text
    assert "Left out 2 of the 83 images & more." in text
    assert "9 good images and 11 anomalous images (6 <dent>, 5 crack)" in text


def test_a_pick_below_patchcore_is_said_to_be_below(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report()
    better = [replace(c, test={"rwAP": 0.6}) if c.is_patchcore else c for c in report.candidates]
    text = read_page(write_report(tmp_path / "report", replace(report, candidates=better))).text
    assert "13.0 points of rwAP below the PatchCore baseline" in text


def test_random_features_are_the_first_thing_said(make_report: MakeReport, tmp_path: Path) -> None:
    random = read_page(write_report(tmp_path / "a", make_report(random_features=True))).text
    assert random.index("The features are random.") < random.index("Pareto front")
    trained = read_page(write_report(tmp_path / "b", make_report())).text
    assert "random." not in trained


def test_many_anomalies_need_no_warning(
    make_report: MakeReport, split: Split, tmp_path: Path
) -> None:
    many = replace(split, validation=split.validation * 40, holdout=split.holdout * 20)
    text = read_page(write_report(tmp_path / "report", make_report(split=many))).text
    assert "The validation set has 80 anomalous images" in text
    assert "noisy" not in text


@pytest.fixture
def anomalies(tmp_path: Path) -> list[Anomaly]:
    """Synthetic anomalies: two blurs and a warp."""
    drawn = []
    for number, kind in enumerate(("blur", "blur", "warp")):
        paths = [tmp_path / f"{number}_{part}.png" for part in ("image", "mask")]
        for path, value in zip(paths, (90, 255), strict=True):
            Image.new("L", (20, 20), value).save(path)
        sample = Sample(paths[0], kind, paths[1])
        drawn.append(Anomaly(sample, Sample(tmp_path / "good.png", "good")))
    return drawn


def robust(report: Report, *, shots: bool = True) -> Report:
    """The same report of a search by synthetic anomalies, and shots."""
    found = {
        "robust_rwAP": 0.35,
        "robust_rwAP.low": 0.3,
        "robust_rwAP.high": 0.41,
        "rwAP.blur": 0.4,
        "rwAP.warp": 0.3,
        "image_AUROC.blur": 0.9,
        "image_AUROC.warp": 0.8,
        **({"rwAP": 0.36} if shots else {}),
    }
    candidates = [
        replace(
            c,
            values={"total_flops": c.values["total_flops"], "robust_rwAP": c.values["rwAP"]},
            validation=found,
        )
        if c.number is not None
        else c
        for c in report.candidates
    ]
    objectives = (report.objectives[0], OBJECTIVES["robust_rwAP"])
    split = report.split if shots else replace(report.split, validation=())
    return replace(report, objectives=objectives, candidates=candidates, split=split)


def test_the_page_of_a_search_by_synthetic_anomalies(
    make_report: MakeReport, anomalies: list[Anomaly], tmp_path: Path
) -> None:
    report = make_report(
        synthetic=anomalies,
        rule="robust",
        advice=("The pick can be trusted.", "More shots may help most."),
        warnings=("3 good images cannot certify",),
        verdicts=("Of 11 it misses 2.",),
    )
    path = write_report(tmp_path / "report", robust(report))
    page = read_page(path)
    text = page.text
    assert 'The rule "robust" picked it.' in text
    assert "Its robust rwAP on the validation set is 35.0 % (90 % interval 30.0 to 41.0)." in text
    assert (
        "3 synthetic anomalies (2 blur, 1 warp) and 2 shots (1 crack, 1 <dent>) beside 17" in text
    )
    for line in (*report.advice, *report.warnings, *report.verdicts):
        assert line in text
    # The worst kind is first.
    assert "warp 1 30.0 80.0 blur 2 40.0 90.0 shots (real anomalies) 2 36.0 –" in text
    assert {"class": "warning"} in [attributes for tag, attributes in page.tags if tag == "p"]
    with Image.open(path.parent / "synthetic.png") as picture:
        assert picture.height > 2 * 160
    assert "synthetic.png" in [attributes.get("src") for _, attributes in page.tags]
    assert "validation validation, shots alone test total backbone robust rwAP rwAP rwAP AP" in text
    assert "3 (pick) architecture 3 4.00 0.50 35.0 (30.0–41.0) 36.0 47.0 –" in text
    assert "In parentheses: 90 % intervals" in text
    # On the test set, rwAP is compared.
    assert "the pick is 12.1 points of rwAP above the PatchCore baseline" in text
    assert "best of the front (chosen with the test labels), trial 0 " in text
    assert "robust rwAP on the validation set" in text
    with (path.parent / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = ["robust_rwAP", "robust_rwAP_low", "robust_rwAP_high", "rwAP", "rwAP_low"]
    assert [rows[3][f"validation_{n}"] for n in names] == ["0.35", "0.3", "0.41", "0.36", ""]
    assert "robust_rwAP" not in rows[3]
    assert "test_robust_rwAP" not in rows[3]


def test_the_page_of_a_search_without_shots(
    make_report: MakeReport, anomalies: list[Anomaly], tmp_path: Path
) -> None:
    report = robust(make_report(synthetic=anomalies), shots=False)
    text = read_page(write_report(tmp_path / "report", report)).text
    assert "has 3 synthetic anomalies (2 blur, 1 warp) beside 17 good images." in text
    assert "GFLOP validation test total backbone robust rwAP rwAP AP AUROC" in text
    assert "shots" not in text.partition("Search and images")[0]


def test_synthetic_anomalies_of_the_test_set_are_called_so(
    make_report: MakeReport, split: Split, tmp_path: Path
) -> None:
    report = make_report(test=split.test, is_test_drawn=True)
    text = read_page(write_report(tmp_path / "report", report)).text
    assert "did not use the test set: 9 good images and 11 synthetic anomalies (6 <dent>" in text
    assert "The data set has no images of real defects" in text
    assert "On the test set of synthetic anomalies the pick is 12.1 points" in text
    assert "Cyan outline: true anomaly, which is synthetic." in text
    real = read_page(write_report(tmp_path / "real", make_report())).text
    assert "synthetic" not in real


def test_without_a_metric_there_is_no_column(make_report: MakeReport, tmp_path: Path) -> None:
    plain = make_report(tested=False)
    bare = [replace(c, validation={}) for c in plain.candidates]
    text = read_page(write_report(tmp_path / "report", replace(plain, candidates=bare))).text
    assert "GFLOP total backbone 0 architecture 0 1.00 0.50 1" in text


@pytest.mark.parametrize(("front", "test"), [(0, False), (0, True), (1, True), (4, False)])
def test_any_front_makes_a_page(
    front: int, test: bool, make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(front=front, tested=test, cases=(), threshold=None, fitted=None)
    text = read_page(write_report(tmp_path / "report", report)).text
    assert ("There is no pick" in text) == (front == 0)
    assert ("Nothing has been measured on the test set" in text) == (not test)
    assert ("chosen with the test labels" in text) == (test and front > 0)


def test_nothing_evaluated_makes_a_page(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(candidates=(), failures=(), cases=())
    assert "0 of 11 architectures" in read_page(write_report(tmp_path / "report", report)).text


def test_the_table_holds_the_front_and_the_patchcore_setting(
    make_report: MakeReport, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "report", make_report())
    with (path.parent / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", ""]
    assert [row["role"] for row in rows] == [*["front"] * 3, "front + pick", "PatchCore baseline"]
    assert float(rows[3]["validation_rwAP"]) == 0.2 + 0.5 * 3 / 10
    assert rows[3]["total_flops"] == "4000000000"
    assert rows[4]["validation_rwAP"] == ""
    assert rows[4]["test_rwAP"] == "0.349"
    assert rows[0]["validation_AUROC"] == ""


def test_what_known_defects_are_worth(make_report: MakeReport, tmp_path: Path) -> None:
    known = {
        "known": "knows 2 defects (2 crack)",
        "types": [TypeResult("crack", known=2, seen=0.6, unseen=0.523, without=0.4)],
        "fitted": "a detector",
    }
    write_report(tmp_path / "report", make_report(**known))
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The detector knows 2 defects (2 crack)." in page
    assert "<td>2</td><td>60.0</td><td>52.3</td><td>40.0</td>" in page
    write_report(tmp_path / "other", make_report())
    assert "known images" not in (tmp_path / "other" / "report.html").read_text()


def test_the_table_without_tests_has_no_test_columns(
    make_report: MakeReport, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "report", make_report(tested=False))
    assert "test_" not in (path.parent / "front.csv").read_text()


def test_objectives_in_between_and_in_other_units(make_report: MakeReport, tmp_path: Path) -> None:
    plain = make_report()
    flops, quality = plain.objectives
    time = replace(flops, name="run_time", label="run time (one image)", unit="ms", scale=1e-3)
    published = replace(flops, name="published_flops", label="published FLOPs")
    candidates = [
        replace(c, values={**c.values, "run_time": 0.0125, "published_flops": 5.5e9})
        if c.number is not None
        else c
        for c in plain.candidates
    ]
    report = replace(plain, candidates=candidates, objectives=(flops, time, published, quality))
    path = write_report(tmp_path / "report", report)
    text = read_page(path).text
    assert "GFLOP ms validation test total published backbone run time rwAP" in text
    assert "3 (pick) architecture 3 4.00 5.50 0.50 12.50 35.0" in text
    assert "PatchCore baseline levels 8 and 16 2.00 – – – –" in text
    assert "in percent, run time (one image) in ms, GFLOP per image: total FLOPs" in text
    assert "run time (one image), published FLOPs and rwAP on the validation set" in text
    with (path.parent / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = ["total_flops", "run_time", "published_flops"]
    assert [rows[3][name] for name in names] == ["4000000000", "0.0125", "5500000000"]
    assert [rows[4][name] for name in names] == ["2000000000", "", ""]


def test_a_quality_that_is_no_metric(make_report: MakeReport, tmp_path: Path) -> None:
    plain = make_report()
    flops, rwap = plain.objectives
    worth = replace(rwap, name="worth", label="worth", unit="", scale=0.1)
    candidates = [
        replace(c, values={**c.values, "worth": 0.25}) if c.number is not None else c
        for c in plain.candidates
    ]
    report = replace(plain, candidates=candidates, objectives=(flops, worth))
    path = write_report(tmp_path / "report", report)
    text = read_page(path).text
    assert "Its worth on the validation set is 2.50. The validation set has" in text
    assert "above the PatchCore baseline" not in text
    assert "worth" in (path.parent / "front.csv").read_text().splitlines()[0].split(",")
    tested = [
        replace(c, test={**c.test, "worth": 0.15 if c.is_patchcore else 0.2}) if c.test else c
        for c in candidates
    ]
    path = write_report(tmp_path / "tested", replace(report, candidates=tested))
    text = read_page(path).text
    assert "the pick is 0.5 of worth above the PatchCore baseline" in text
    assert "AUPRO image AUROC worth pick, trial 3" in text
    assert "34.9 – – – – 1.50" in text
    with (path.parent / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["test_worth"] for row in rows] == ["0.2"] * 4 + ["0.15"]
    assert [row["worth"] for row in rows] == ["0.25"] * 4 + [""]


def test_the_report_is_deterministic(make_report: MakeReport, tmp_path: Path) -> None:
    folders = [write_report(tmp_path / name, make_report()).parent for name in ("a", "b")]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_an_earlier_report_is_replaced_as_a_whole(make_report: MakeReport, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report(folder, make_report())
    write_report(folder, make_report(cases=(), dataset="other"))
    assert not (folder / "case_1_1.png").exists()
    assert "other" in (folder / "report.html").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


class BrokenImage(Image.Image):
    def save(self, *args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")


def test_a_failure_leaves_nothing_or_the_earlier_report(
    make_report: MakeReport, tmp_path: Path
) -> None:
    broken = make_report(cases=(Cases("Best", "", (("a", BrokenImage()),)),))
    folder = tmp_path / "report"
    with pytest.raises(InputError, match="no space left"):
        write_report(folder, broken)
    assert list(tmp_path.iterdir()) == []
    write_report(folder, make_report())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="no space left"):
        write_report(folder, broken)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_other_files_are_not_overwritten(make_report: MakeReport, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds files but no report\.html"):
        write_report(folder, make_report())
    assert (folder / "thesis.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        write_report(folder / "thesis.txt", make_report())
