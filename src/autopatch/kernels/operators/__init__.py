"""The operators `torch.ops.autopatch.*`, registered when this package is imported.

Each has a schema, an implementation for each device, a fake implementation (only shapes and dtypes,
for `torch.compile` and `torch.export`) and an autograd rule that raises. Implementations allocate
with torch and pass addresses to `autopatch._C`. They also check values, so that compiled graphs do,
too. Users call the functions of `autopatch.kernels`.
"""

from __future__ import annotations

import os

from autopatch import _C
from autopatch.errors import InputError
from autopatch.kernels.operators import (  # noqa: F401
    aggregate_patches,
    greedy_coreset,
    nearest_neighbors,
    pixel_metrics,
)

if "AUTOPATCH_ISA" in os.environ:
    try:
        _C.set_active_isa(os.environ["AUTOPATCH_ISA"])
    except ValueError as error:
        raise InputError(f"AUTOPATCH_ISA: {error}") from None
