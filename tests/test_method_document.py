"""docs/method.md says what the code computes, and the links of the documents lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
METHOD = ROOT / "docs" / "method.md"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.fixture(scope="module")
def text() -> str:
    return METHOD.read_text()


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rwap", ROOT / "docs" / "images" / "rwap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text: str, header: str) -> list[list[str]]:
    """Cells of the table under a header line, which occurs once."""
    lines = text.splitlines()
    assert lines.count(header) == 1, header
    found = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def number(cell: str) -> Fraction:
    return Fraction(cell.replace(",", ""))


def product(cell: str) -> Fraction:
    """The value of a cell such as "20/24 × 20/25"."""
    value = Fraction(1)
    for factor in cell.split("×"):
        numerator, _, denominator = factor.partition("/")
        value *= Fraction(numerator.strip()) / Fraction(denominator.strip() or "1")
    return value


def test_metrics_of_the_example(text: str, example: ModuleType) -> None:
    found = rows(text, "| detector | metric | at 0.9 | at 0.1 | value |")

    assert [row[:2] for row in found] == [[d, m] for d in "AB" for m in ("AP", "rwAP")]
    for detector, metric, high, low, value in found:
        measured = example.metrics(detector)[metric]
        assert value == f"{measured:.4f}"
        assert float(product(high) + product(low)) == pytest.approx(measured, abs=1e-12)


def test_auroc_of_the_example(text: str, example: ModuleType) -> None:
    printed = re.search(r"(0\.\d{3})\s+for\s+A\s+against\s+(0\.\d{3})\s+for\s+B", text)

    assert printed is not None
    assert printed.groups() == tuple(f"{example.metrics(d)['AUROC']:.3f}" for d in "AB")


def test_truth_of_the_example(text: str, example: ModuleType) -> None:
    assert f"```{example.TRUTH}```" in text


def test_weights_of_the_example(text: str, example: ModuleType) -> None:
    *regions, total = rows(text, "| region | pixels | weight of a pixel | pixels × weight |")
    masks, weights = example.pixels(example.TRUTH), example.weights()

    printed = []
    for _, pixels, weight, share in regions:
        rule, value = weight.split("=")
        assert product(rule) == Fraction(value.strip())
        assert int(pixels) * Fraction(value.strip()) == int(share)
        printed += [float(value)] * int(pixels)
    assert np.sort(weights[masks]) == pytest.approx(np.sort(printed), abs=1e-12)
    assert int(total[1]) == int(total[3]) == masks.sum()


def test_weights_of_anomalous_pixels_sum_to_their_number(example: ModuleType) -> None:
    masks, weights = example.pixels(example.TRUTH), example.weights()

    assert weights[masks].sum() == pytest.approx(masks.sum(), abs=1e-12)
    assert (weights[~masks] == 1).all()


def test_the_picture_can_be_drawn(example: ModuleType, tmp_path: Path) -> None:
    example.draw(tmp_path / "rwap.png")

    assert (tmp_path / "rwap.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_of_the_published_space(text: str) -> None:
    assert f"2 · 720⁵ = {2 * 720**5:,} points" in text
    assert f"2 · 144⁵ = {2 * 144**5:,} of the points" in text


def test_published_flops_follow_their_formula(text: str) -> None:
    header = (
        "| width | kernels | expand | blocks | conv | transform | bias | bn | activation | flops |"
    )
    found = rows(text, header)

    assert len(found) == 4
    for row in found:
        conv, transform, bias, bn, activation, flops = map(number, row[4:])
        assert 2 * (conv + transform) + bias + 2 * bn + activation == flops


def test_flops_of_nearest_neighbors(text: str) -> None:
    assert f"2 × 3,136 × 10,000 × 504 = {2 * 3136 * 10_000 * 504:,}" in text
    assert f"784,000 rows, it is {2 * 3136 * 784_000 * 504:,}" in text


def test_published_means(text: str) -> None:
    header = (
        "| category | rwAP, k = 1 | rwAP, k = 2 | rwAP, k = 4 | rwAP, on test | PC rwAP | AP | "
        "PC AP | GFLOPs, backbone |"
    )
    *categories, mean = [
        [[float(part) for part in re.split(" [±/] ", cell)] for cell in row[1:]]
        for row in rows(text, header)
    ]

    assert len(categories) == 15
    for column, printed in enumerate(mean):
        # Printed to one or two digits, of values that were rounded themselves.
        found = np.mean([row[column] for row in categories], axis=0)
        assert found == pytest.approx(np.array(printed), abs=0.11)


def anchors(document: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in headings}


def links(document: Path) -> list[str]:
    """Targets of the links and pictures."""
    # Code holds brackets of its own.
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def test_documents_have_links() -> None:
    assert links(ROOT / "README.md")
    assert links(METHOD)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(document: Path) -> None:
    for link in links(document):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
