"""The coresets that candidates share."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from autopatch.data import Cache
from autopatch.detector import Architecture, GoodMaps, Head, Input
from autopatch.detector.scoring import fit_patches
from autopatch.search import coresets
from autopatch.search.coresets import Coresets
from autopatch.supernet import Backbone


def candidate(bank_size: int | None) -> Architecture:
    return Architecture(Input(160), Backbone("x", (1,)), Head((1,), bank_size))


@pytest.fixture
def good() -> GoodMaps:
    maps = torch.randn((60, 16, 10, 10), generator=torch.Generator().manual_seed(0))
    return GoodMaps.of([maps.to(memory_format=torch.channels_last)])


@pytest.mark.parametrize(
    ("patches_in_memory", "reused"), [(6000, 2), (1500, 0)], ids=["all", "thinned"]
)
def test_a_bank_does_not_depend_on_what_was_evaluated_before(
    good: GoodMaps, monkeypatch: pytest.MonkeyPatch, patches_in_memory: int, reused: int
) -> None:
    memory = patches_in_memory * (4 * 16 + 128)
    monkeypatch.setattr(coresets, "fit_patches", partial(fit_patches, memory_bytes=memory))
    shared = Coresets(Cache(1 << 30))
    for size in (150, 50, 100, None, 50):
        alone = Coresets(Cache(1 << 30)).get(candidate(size), good)[1]
        found = shared.get(candidate(size), good)[1]
        assert torch.equal(found.rows[:size], alone.rows[:size])
        assert found.radius(len(found.rows[:size])) == alone.radius(len(alone.rows[:size]))
        assert (alone.lost > 0) == (reused == 0 and size is not None)
    assert shared.reused == reused
