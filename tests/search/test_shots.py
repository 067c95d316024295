"""Candidates that keep the shots: no image is scored with its own patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from autopatch.data import (
    DEFAULT_READING,
    Anomaly,
    MVTecAD,
    Sample,
    Split,
    draw_anomalies,
    draw_textures,
    make_split,
)
from autopatch.detector import (
    Architecture,
    Detector,
    GoodMaps,
    Head,
    Input,
    KnownPatches,
    fit_head,
)
from autopatch.search import CandidateEvaluator, shots
from autopatch.search.shots import Shots
from autopatch.search.validation import Measured, ValidationMetrics
from autopatch.supernet import Backbone, Supernet, load_supernet

NAME = "timm:test_efficientnet"
ARCHITECTURE = Architecture(Input(64), Backbone(NAME, (1, 3)), Head((3, 2), 60, defects=0.5))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("textures") / "data"
    draw_textures(root, seed=4, image_size=64, train=16, test_good=3, per_type=4)
    return make_split(MVTecAD.scan(root), shots=2, reserve=2)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet(NAME, "random", seed=2)


def evaluator(
    split: Split, supernet: Supernet, scored: tuple[Sample, ...], **options: object
) -> CandidateEvaluator:
    return CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=scored,
        shots=split.validation,
        held_out=split.holdout,
        **options,
    )


@pytest.fixture
def maps_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """The anomaly maps that an evaluation compares with the masks."""
    seen: list[torch.Tensor] = []
    measure = ValidationMetrics.__call__

    def noted(self: ValidationMetrics, maps: torch.Tensor) -> Measured:
        seen.append(maps)
        return measure(self, maps)

    monkeypatch.setattr(ValidationMetrics, "__call__", noted)

    def evaluated(evaluate: CandidateEvaluator, architecture: Architecture) -> torch.Tensor:
        evaluate(architecture)
        return seen[-1]

    return evaluated


def fitted(split: Split, supernet: Supernet, known: list[Sample], neighbors: int) -> Detector:
    architecture = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, neighbors=neighbors))
    return Detector.fit(
        [sample.image for sample in split.fit],
        supernet=supernet,
        architecture=architecture,
        calibration=[sample.image for sample in split.holdout],
        defects=known,
    )


@pytest.mark.parametrize("neighbors", [1, 3])
def test_each_shot_is_scored_by_a_detector_that_lacks_it(
    split: Split, supernet: Supernet, maps_of: Callable[..., torch.Tensor], neighbors: int
) -> None:
    scored = (*split.holdout, *split.validation)
    head = replace(ARCHITECTURE.head, neighbors=neighbors)
    found = maps_of(evaluator(split, supernet, scored), replace(ARCHITECTURE, head=head))
    places = [0, 1, len(split.holdout), len(split.holdout) + 3]
    for place in places:
        sample = scored[place]
        # A good image lacks a shot in turn.
        lacks = sample if sample.label else split.validation[place % len(split.validation)]
        known = [shot for shot in split.validation if shot != lacks]
        detector = fitted(split, supernet, known, neighbors)
        expected = detector.predict(sample.image).anomaly_map[0]
        # The usual distance differs a little: it is that of a detector that knows all shots.
        scale = expected.max()
        torch.testing.assert_close(found[place] / scale, expected / scale, rtol=0.02, atol=0.01)


def test_the_test_set_is_scored_by_the_detector_that_is_fitted(
    split: Split, supernet: Supernet, maps_of: Callable[..., torch.Tensor]
) -> None:
    found = maps_of(evaluator(split, supernet, split.test), ARCHITECTURE)
    detector = fitted(split, supernet, list(split.validation), 1)
    expected = detector.predict([sample.image for sample in split.test]).anomaly_map
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


def nearest_of_own(
    split: Split, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """The smallest distance of each shot to the defect rows that it is scored with."""
    smallest: list[float] = []
    combined = shots.combined_scores

    def noted(good: torch.Tensor, defect: torch.Tensor, **options: float) -> torch.Tensor:
        smallest.extend(defect.reshape(-1, 16 * 16).amin(dim=1).tolist())
        return combined(good, defect, **options)

    monkeypatch.setattr(shots, "combined_scores", noted)
    scored = (*split.holdout, *split.validation)
    evaluator(split, supernet, scored)(ARCHITECTURE)
    assert len(smallest) == len(scored)
    return smallest[len(split.holdout) :]


def test_no_patch_of_a_scored_image_is_in_its_bank(
    split: Split, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert min(nearest_of_own(split, supernet, monkeypatch)) > 1e-6


def test_a_planted_patch_is_seen(
    split: Split, supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would fail if an image were scored with its own patches."""
    patches_of = KnownPatches.of.__func__
    planted: list[torch.Tensor] = []

    def plant(cls, patches, *rest):  # each shot gets a patch of the shot before it
        found = patches_of(cls, patches, *rest)
        planted.append(found.defects[:1])
        return KnownPatches(found.good, torch.cat([found.defects, *planted[-2:-1]]))

    monkeypatch.setattr(KnownPatches, "of", classmethod(plant))
    assert min(nearest_of_own(split, supernet, monkeypatch)) < 1e-6


def test_shots_of_one_group_are_left_out_together(split: Split) -> None:
    first, second, *others = (
        replace(shot, group=str(i)) for i, shot in enumerate(split.validation)
    )
    second = replace(second, group=first.group)
    known = [first, second, *others]
    left_out = shots._left_out(known, [*split.holdout[:2], *known])
    assert left_out[:2] == [{0, 1}, {0, 1}]
    assert left_out[2:5] == [{0, 1}, {0, 1}, {2}]


def test_a_single_shot_cannot_be_scored_with_itself(
    split: Split, supernet: Supernet, maps_of: Callable[..., torch.Tensor]
) -> None:
    single = replace(split, validation=split.validation[:1])
    scored = (*single.holdout, *single.validation)
    assert not Shots(single.validation, scored, DEFAULT_READING).known.any()
    assert Shots(split.validation, scored, DEFAULT_READING).known.any(dim=1).all()
    assert Shots(single.validation, split.test, DEFAULT_READING).known.all()
    with_shot = maps_of(evaluator(single, supernet, scored), ARCHITECTURE)
    off = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, defects=None))
    assert torch.equal(with_shot, maps_of(evaluator(single, supernet, scored), off))


@pytest.fixture(scope="module")
def drawn(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[Anomaly, ...]:
    folder = tmp_path_factory.mktemp("drawn") / "synthetic"
    return draw_anomalies(
        split.holdout,
        folder,
        shots=split.validation,
        kinds=("scratch", "transplant"),
        per_kind=len(split.validation),
    )


def test_synthetic_anomalies_are_scored_by_a_detector_that_knows_all_shots(
    split: Split,
    supernet: Supernet,
    drawn: tuple[Anomaly, ...],
    maps_of: Callable[..., torch.Tensor],
) -> None:
    scored = (*split.holdout, *split.validation)
    maps = maps_of(evaluator(split, supernet, scored, synthetic=drawn), ARCHITECTURE)
    good = len(scored) + len(split.holdout)
    assert len(maps) == good + len(drawn)
    detector = fitted(split, supernet, list(split.validation), 1)
    for place, image in (
        (len(scored), split.holdout[0].image),
        (good - 1, split.holdout[-1].image),
        (good, drawn[0].sample.image),
    ):
        expected = detector.predict(image).anomaly_map[0]
        scale = expected.max()
        torch.testing.assert_close(maps[place] / scale, expected / scale, rtol=1e-3, atol=1e-3)
    transplant = drawn[-1]
    assert transplant.shot == split.validation[-1]
    lacking = fitted(split, supernet, list(split.validation[:-1]), 1)
    expected = lacking.predict(transplant.sample.image).anomaly_map[0]
    scale = expected.max()
    torch.testing.assert_close(maps[-1] / scale, expected / scale, rtol=0.02, atol=0.01)
    known = detector.predict(transplant.sample.image).anomaly_map[0]
    assert not torch.allclose(known / known.max(), expected / scale, rtol=0.02, atol=0.01)


def test_a_single_shot_counts_for_synthetic_anomalies(
    split: Split, drawn: tuple[Anomaly, ...]
) -> None:
    single = split.validation[:1]
    scored = (*split.holdout, *single)
    seen = Shots(single, scored, DEFAULT_READING, drawn)
    assert not seen.known[: len(scored)].any()
    assert seen.known[len(scored) : -len(drawn) // 2].all()
    # The first transplant is of this shot, the others are of shots that the detector lacks.
    assert seen.known[-len(drawn) // 2 :, 0].tolist() == [
        anomaly.shot != single[0] for anomaly in drawn[len(drawn) // 2 :]
    ]


def test_the_values_are_those_of_the_head_that_knows_all_shots(
    split: Split, supernet: Supernet
) -> None:
    scored = (*split.holdout, *split.validation)
    off = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, defects=None))
    rows = []
    for architecture in (off, ARCHITECTURE):
        evaluate = evaluator(split, supernet, scored)
        rows.append(evaluate(architecture).values["total_flops"])
    assert rows[1] > rows[0]


def test_unchanged_patches_of_a_synthetic_anomaly_are_not_searched_again(
    split: Split, drawn: tuple[Anomaly, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps are those of a search of all patches, bit by bit."""
    scored, shot = split.holdout, split.validation[0]
    places = {sample.image: place for place, sample in enumerate(scored)}
    generator = torch.Generator().manual_seed(0)
    good, of_scored, of_shot = (
        torch.rand((count, 6, 8, 8), generator=generator) for count in (9, len(scored), 1)
    )
    of_drawn = of_scored[[places[anomaly.source.image] for anomaly in drawn]]
    of_drawn[1:, :, 2:4, 5] += 1  # the first one is its source
    maps = [torch.cat([of_scored, of_drawn])]
    head = fit_head(GoodMaps.of([good]), Head((1,), 50, defects=0.5), size=32)
    views = Shots([shot], scored, DEFAULT_READING, drawn, scored)
    rows: list[int] = []
    search = shots.nearest_neighbors

    def noted(queries: torch.Tensor, *rest: object) -> object:
        rows.append(len(queries))
        return search(queries, *rest)

    monkeypatch.setattr(shots, "nearest_neighbors", noted)
    found = views.anomaly_maps(head, maps)
    assert sum(rows) == 64 * len(scored) + 2 * (len(drawn) - 1)
    assert torch.equal(found, views.chosen(head.anomaly_maps(maps)))
    knowing, found = views.anomaly_maps_knowing(head, maps, [of_shot])
    expected = knowing.anomaly_maps(maps)[views.images]
    knows = views.known[:, 0]
    assert 0 < knows.sum() < len(knows)
    torch.testing.assert_close(found[knows], expected[knows])
    assert torch.equal(found[~knows], head.anomaly_maps(maps)[views.images][~knows])
