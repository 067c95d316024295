from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import MVTecAD, Reading, load_anomalies, read_image
from autopatch.errors import InputError
from autopatch.runs import synthesize


def test_anomalies_on_the_training_images(textures: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    drawn = synthesize(
        textures, tmp_path / "out", per_kind=2, seed=1, progress=lambda *step: told.append(step)
    )
    assert len(drawn) == len(told) == 12
    assert drawn == load_anomalies(tmp_path / "out", textures)
    assert {each.source.image.parent for each in drawn} == {textures / "train" / "good"}
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["anomalies.json", "contact_sheet.png", "ground_truth", "test"]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 2 * 2 * 160
        assert sheet.height > 6 * 160


def test_shots_of_each_type_in_turn(textures: Path, tmp_path: Path) -> None:
    dataset = MVTecAD.scan(textures)
    drawn = synthesize(dataset, tmp_path / "out", kinds=["transplant"], shots=2, per_kind=6, seed=1)
    shots = [each.shot for each in drawn]
    assert [shot.type for shot in shots if shot] == 2 * ["hole", "scratch", "stain"]
    assert len(set(shots)) == 6
    assert all(shot in dataset.test for shot in shots)
    other = synthesize(
        dataset, tmp_path / "other", kinds=["transplant"], shots=2, per_kind=6, seed=2
    )
    assert [each.shot for each in other] != shots


def test_the_bit_depth_is_decided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        values = rng.integers(0, 20, (64, 64), dtype=np.uint16) * 50
        Image.fromarray(values).save(tmp_path / "good" / f"{number}.png")
    with caplog.at_level(logging.WARNING, "autopatch"):
        drawn = synthesize(tmp_path / "good", tmp_path / "out", kinds=["tone"], per_kind=2)
    for each in drawn:
        before, after = (
            np.asarray(read_image(sample.image, Reading(bit_depth=10)))
            for sample in (each.source, each.sample)
        )
        mask = np.asarray(Image.open(each.sample.mask))
        assert (before[~mask] != after[~mask]).mean() < 0.1
        assert before.max() > 200
    assert "gray levels" in caplog.text


def test_mistakes(textures: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"shots": -1}, "`shots` is -1, expected at least 0"),
        ({"shots": 7}, "the type 'hole' has 6 images, expected at least `shots`, 7"),
        ({"kinds": ["transplant"]}, "which needs `shots`"),
        ({"seed": -1}, "`seed` is -1"),
    ):
        with pytest.raises(InputError, match=message):
            synthesize(textures, tmp_path / "out", **arguments)
    with pytest.raises(InputError, match=r"`shots` is 1, but .* has no anomalous images"):
        synthesize(textures / "train" / "good", tmp_path / "out", shots=1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_if_the_contact_sheet_fails(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("no space")

    monkeypatch.setitem(synthesize.__globals__, "write_contact_sheet", fail)
    with pytest.raises(InputError, match="no space"):
        synthesize(textures, tmp_path / "out", kinds=["tone"], per_kind=1)
    assert list(tmp_path.iterdir()) == []
