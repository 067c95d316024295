"""A detector from good images alone."""

import json
import shutil
from dataclasses import replace

import pytest

from autopatch.detector import Architecture, Detector, Head, Input
from autopatch.errors import InputError
from autopatch.runs import fit_images
from autopatch.supernet import Backbone, load_supernet

NAME = "timm:tf_mobilenetv3_small_075"
ARCHITECTURE = Architecture(Input(64), Backbone(NAME, (1,)), Head((3,), 60))


@pytest.fixture
def fit(textures, tmp_path):
    def run(images=textures / "train" / "good", out=None, **options):
        out = tmp_path / "d.safetensors" if out is None else out
        return fit_images(images, out, **{"space": NAME, "weights": "random"} | options)

    return run


def test_a_folder_or_its_files(fit, textures, tmp_path):
    folder = textures / "train" / "good"
    (tmp_path / "a.json").write_text(json.dumps(ARCHITECTURE.to_json()))
    found = []
    for number, images in enumerate((folder, str(folder), sorted(folder.iterdir()))):
        out = tmp_path / f"{number}.safetensors"
        for architecture in (ARCHITECTURE, str(tmp_path / "a.json")):
            detector = fit(images, str(out), architecture=architecture)
            assert detector.architecture == ARCHITECTURE
            found.append(out.read_bytes())
            assert Detector.load(str(out)).threshold == detector.threshold
            out.unlink()
    assert len(set(found)) == 1


def test_all_images_are_in_the_bank_and_set_the_threshold(fit, textures):
    head = replace(ARCHITECTURE.head, bank_size=None)
    detector = fit(architecture=replace(ARCHITECTURE, head=head))
    images = sorted((textures / "train" / "good").iterdir())
    assert detector.predict(images).pred_score.max() < 1e-6
    assert detector.threshold.images == len(images) == 16
    assert detector.calibration_scores.min() > 1e-3


def test_images_of_a_group_stay_in_one_fold(fit, textures, tmp_path):
    folder = textures / "train" / "good"
    images = sorted(folder.iterdir())
    groups = [image.stem[-1] for image in images]
    assert 1 < len(set(groups)) < len(images)
    detector = fit(architecture=ARCHITECTURE, group_regex=r".(?=\.)")
    (tmp_path / "groups.csv").write_text(
        "file,group\n" + "".join(f"{i.name},{g}\n" for i, g in zip(images, groups, strict=True))
    )
    same = fit(folder, tmp_path / "same", architecture=ARCHITECTURE, groups=tmp_path / "groups.csv")
    expected = Detector.fit(
        images, supernet=load_supernet(NAME, "random"), architecture=ARCHITECTURE, groups=groups
    )
    assert detector.threshold == same.threshold == expected.threshold
    apart = fit(folder, tmp_path / "apart", architecture=ARCHITECTURE)
    assert apart.threshold != detector.threshold
    with pytest.raises(InputError, match="`images` must be a folder"):
        fit(images, tmp_path / "files", group_regex="x")


def test_groups_of_images_in_subfolders(fit, textures, tmp_path):
    parts = tmp_path / "parts"
    for number, image in enumerate(sorted((textures / "train" / "good").iterdir())[:6]):
        target = parts / str(number % 2) / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
    detector = fit(parts, architecture=ARCHITECTURE, group_regex=r".(?=\.)")
    assert detector.threshold.images == 6


def test_groups_of_a_whole_data_set_are_refused(fit, textures, tmp_path):
    with pytest.raises(InputError, match="contains train/good, so it is a whole data set"):
        fit(textures, group_regex=r"\d")


def test_random_weights_and_folds_follow_the_seed(fit, tmp_path):
    options = {"architecture": ARCHITECTURE}
    one = fit(out=tmp_path / "one", **options)
    other = fit(out=tmp_path / "other", seed=1, **options)
    assert one.weights_sha256 != other.weights_sha256
    assert one.threshold != other.threshold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "nowhere"}, "nowhere: no such file or folder"),
        ({"architecture": ARCHITECTURE, "bank_size": 9}, "no `bank_size` beside it"),
        ({"bank_size": 0}, "bank size is 0"),
        ({"false_alarm_rate": 0}, "`false_alarm_rate` is 0"),
        ({"device": "gpu"}, "`device` is 'gpu'"),
        ({"weights": "nowhere.safetensors"}, r"nowhere\.safetensors"),
        ({"space_options": {"recalibrate_batch_norm": True}}, "`recalibrate_batch_norm` is given"),
        ({"out": "/"}, "/: exists; remove it or give another `out`"),
        ({"out": "nowhere/d.safetensors"}, "nowhere/d.safetensors: cannot be written"),
    ],
)
def test_mistakes_write_nothing(fit, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        fit(**options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
