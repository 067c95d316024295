"""Types of the native extension. Sizes and addresses are integers; see csrc/bindings.cpp."""

from enum import Enum

cuda_built: bool
cuda_reason: str  # why not, else empty
max_patch_size: int
max_threads: int
max_screen_width: int
panel_rows: int
max_screened_neighbors: int
max_cuda_columns: int
max_cuda_pixels: int
metrics_errors: int

def detected_isa() -> str: ...
def active_isa() -> str: ...
def isa_levels() -> list[str]: ...
def set_active_isa(name: str) -> None: ...
def all_finite(values: int, count: int, num_threads: int) -> bool: ...

class FeatureType(Enum):
    float32 = ...
    float16 = ...
    bfloat16 = ...

Level = tuple[int, FeatureType, int, int, int, bool, int]

def aggregate_patches(
    levels: list[Level], images: int, height: int, width: int, out: int, num_threads: int
) -> None: ...
def aggregate_patches_cuda(
    levels: list[Level], images: int, height: int, width: int, out: int, stream: int
) -> None: ...
def prefer_huge_pages(data: int, count: int) -> None: ...
def coreset_width_within(bytes: int, num_rows: int, count: int) -> int: ...
def greedy_coreset(
    features: int,
    num_rows: int,
    dim: int,
    count: int,
    start: int,
    mean: int,
    basis: int,
    width: int,
    basis_error: float,
    indices: int,
    radii: int,
    num_threads: int,
) -> None: ...
def greedy_coreset_cuda_workspace(num_rows: int, dim: int) -> int: ...
def greedy_coreset_cuda(
    features: int,
    num_rows: int,
    dim: int,
    count: int,
    start: int,
    center: int,
    inverse_scale: int,
    workspace: int,
    indices: int,
    radii: int,
    stream: int,
) -> None: ...
def nearest_neighbors(
    queries: int,
    num_queries: int,
    bank: int,
    num_rows: int,
    dim: int,
    screen: int,
    k: int,
    distances: int,
    indices: int,
    counts: int,
    num_threads: int,
) -> None: ...
def nearest_neighbors_cuda_workspace(num_queries: int, num_rows: int, dim: int) -> int: ...
def screen_bytes_cuda(num_rows: int, dim: int) -> int: ...
def build_screen_cuda(
    bank: int,
    num_rows: int,
    dim: int,
    order: int,
    center: int,
    scale: int,
    screen: int,
    stream: int,
) -> None: ...
def has_wgmma() -> bool: ...

class GroupMaximaMethod(Enum):
    mma = ...
    wgmma = ...

def group_maxima_cuda(
    queries: int,
    bank: int,
    half_norms: int,
    num_queries: int,
    num_rows: int,
    depth: int,
    method: GroupMaximaMethod,
    maxima: int,
    stream: int,
) -> None: ...
def screen_bytes(num_rows: int, dim: int, width: int, is_projected: bool) -> int: ...
def is_screen(screen: int, bytes: int, num_rows: int, dim: int) -> bool: ...
def screen_shape(screen: int) -> tuple[int, int, bool]: ...
def build_screen(
    bank: int,
    num_rows: int,
    dim: int,
    mean: int,
    basis: int,
    width: int,
    basis_error: float,
    screen: int,
    num_threads: int,
) -> None: ...
def nearest_neighbors_cuda(
    queries: int,
    num_queries: int,
    bank: int,
    num_rows: int,
    dim: int,
    screen: int,
    workspace: int,
    k: int,
    distances: int,
    indices: int,
    stream: int,
) -> None: ...

class ScoreType(Enum):
    float32 = 0
    float64 = 1
    float16 = 2
    bfloat16 = 3
    uint8 = 4

class MetricsError(Enum):
    none = ...
    type_out_of_range = ...
    anomalous_pixel_in_good_image = ...
    no_anomalous_pixel = ...
    nan_score = ...

def pixel_metrics(
    scores: int,
    score_type: ScoreType,
    masks: int,
    images: int,
    height: int,
    width: int,
    type_of_image: int,
    num_types: int,
    out: int,
    num_threads: int,
) -> None: ...
def pixel_metrics_cuda_workspace(score_type: ScoreType, num_pixels: int, num_types: int) -> int: ...
def pixel_metrics_cuda(
    scores: int,
    score_type: ScoreType,
    masks: int,
    images: int,
    height: int,
    width: int,
    type_of_image: int,
    num_types: int,
    workspace: int,
    out: int,
    stream: int,
) -> None: ...
