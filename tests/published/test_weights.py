from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autopatch.errors import InputError
from autopatch.files import cache_folder
from autopatch.published import weights
from autopatch.published.weights import (
    OFFICIAL,
    OfficialCheckpoint,
    file_in_folder,
    official_weights,
    weights_in_file,
)
from autopatch.supernet import read_safetensors

State = dict[str, torch.Tensor]
NET = "ofa_mbv3_d234_e346_k357_w1.0"
FILE = f"{NET}.safetensors"
DEPTH = "blocks.1.conv.depth_conv"
PUBLISHED_DEPTH = "blocks.1.mobile_inverted_conv.depth_conv"
SHAPES: dict[str, tuple[int, ...]] = {
    "first_conv.conv.weight": (4, 3, 3, 3),
    "first_conv.bn.weight": (4,),
    "first_conv.bn.num_batches_tracked": (),
    "blocks.0.conv.depth_conv.conv.weight": (4, 1, 3, 3),
    "blocks.0.conv.point_linear.bn.running_mean": (4,),
    "blocks.1.conv.inverted_bottleneck.conv.conv.weight": (12, 4, 1, 1),
    "blocks.1.conv.inverted_bottleneck.bn.bn.running_var": (12,),
    f"{DEPTH}.conv.conv.weight": (12, 1, 7, 7),
    f"{DEPTH}.conv.7to5_matrix": (25, 25),
    f"{DEPTH}.bn.bn.weight": (12,),
    f"{DEPTH}.bn.bn.num_batches_tracked": (),
    f"{DEPTH}.se.fc.reduce.bias": (8,),
    "feature_mix_layer.conv.weight": (16, 12, 1, 1),
    "classifier.linear.weight": (10, 16),
}
EXPECTED = {key: torch.Size(shape) for key, shape in SHAPES.items()}


def own_state(shapes: dict[str, torch.Size] = EXPECTED) -> State:
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.tensor(i)
        if key.endswith("num_batches_tracked")
        else torch.randn(shape, generator=generator)
        for i, (key, shape) in enumerate(shapes.items())
    }


def published_name(key: str) -> str:
    key = re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", key)
    return key.replace("bn.bn.", "bn.").replace("conv.conv.weight", "conv.weight")


def published(state: State) -> State:
    return {published_name(key): tensor for key, tensor in state.items()}


def pickled(document: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(document, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def assert_same(found: State, wanted: State) -> None:
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def one_line(caught: pytest.ExceptionInfo[InputError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


@dataclass
class Site:
    """A web server with one file, and the faults that its clients meet."""

    content: bytes = b""
    sent: bytes | None = None
    length: int | None = None
    status: int = 200
    requests: int = 0
    url: str = ""
    before: Callable[[], object] = field(default=lambda: None)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        self.before()
        request.send_response(self.status)
        if self.length is None or self.length >= 0:
            length = len(self.content) if self.length is None else self.length
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(self.content if self.sent is None else self.sent)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serves `content`, whose expected size and hash are not known yet."""
    monkeypatch.setenv("no_proxy", "*")
    result = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # some have gone before they are answered
                result.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        result.url = f"http://127.0.0.1:{server.server_port}/{NET}"
        yield result
        server.shutdown()
        thread.join()


Publish = Callable[..., OfficialCheckpoint]


@pytest.fixture
def publish(site: Site, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Puts a checkpoint on the site and makes it the official one; keywords change what is known.

    Returns what is known of it.
    """

    def run(content: bytes | None = None, **known: Any) -> OfficialCheckpoint:
        if content is None:
            content = pickled({"state_dict": published(own_state())})
        site.content = content
        checkpoint = OfficialCheckpoint(
            **{
                "net_id": NET,
                "url": site.url,
                "git_blob": hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest(),
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                **known,
            }
        )
        monkeypatch.setitem(OFFICIAL, NET, checkpoint)
        return checkpoint

    return run


def refused(cache: Path, expected: dict[str, torch.Size] = EXPECTED) -> str:
    """The message of a download that must fail and leave no files."""
    with pytest.raises(InputError) as caught:
        official_weights(NET, expected, cache=cache)
    assert list(cache.iterdir()) == []
    return one_line(caught)


def test_both_widths_are_known() -> None:
    assert [net_id.rpartition("_w")[2] for net_id in OFFICIAL] == ["1.0", "1.2"]
    for net_id, checkpoint in OFFICIAL.items():
        assert checkpoint.net_id == net_id
        assert checkpoint.url.startswith("https://")
        assert checkpoint.url.endswith(f"/{net_id}")
        assert re.fullmatch("[0-9a-f]{40}", checkpoint.git_blob)
        assert re.fullmatch("[0-9a-f]{64}", checkpoint.sha256 or "0" * 64)


def test_downloaded_once(site: Site, publish: Publish, tmp_path: Path) -> None:
    known = publish()
    cache = tmp_path / "new" / "folder"
    told: list[tuple[str, int, int]] = []
    first = official_weights(NET, EXPECTED, cache=cache, progress=lambda *what: told.append(what))
    assert_same(first, own_state())
    assert told[-1] == (f"download {NET}", known.size, known.size)
    assert [path.name for path in cache.iterdir()] == [FILE]
    with safe_open(cache / FILE, framework="pt") as file:
        metadata = file.metadata()
    assert re.fullmatch("[0-9a-f]{64}", metadata.pop("tensors_sha256"))
    assert metadata == {"net_id": NET, "source": site.url, "git_blob": known.git_blob}

    site.status = 500
    told.clear()
    again = official_weights(NET, EXPECTED, cache=cache, progress=lambda *what: told.append(what))
    assert_same(again, own_state())
    assert site.requests == 1
    assert not told


def test_all_keys_of_the_supernet(publish: Publish, tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "shared" / "fixtures" / "ofa_state_dict.json"
    if not path.is_file():
        pytest.skip(f"the keys of the supernet are not here: {path}")
    keys = json.loads(path.read_text())["1.0"]["keys"]
    shapes = {key: torch.Size(shape) for key, (shape, _) in keys.items()}
    wanted = {
        key: torch.full(shape, i, dtype=getattr(torch, keys[key][1]))
        for i, (key, shape) in enumerate(shapes.items())
    }
    stored = published(wanted)
    assert len(stored) == 475
    assert sum(name in wanted for name in stored) < 20
    publish(pickled({"state_dict": stored}))
    assert_same(official_weights(NET, shapes, cache=tmp_path), wanted)
    assert_same(official_weights(NET, shapes, cache=tmp_path), wanted)


def test_size_and_sha256_may_be_unknown(site: Site, publish: Publish, tmp_path: Path) -> None:
    known = publish(sha256=None, size=None)
    site.sent = site.content[:-1] + b"!"
    message = refused(tmp_path)
    assert f"expected {known.git_blob}" in message
    assert "git blob is " in message

    site.sent, site.length = None, -1  # nor does the server tell the size
    told: list[tuple[str, int, int]] = []
    official_weights(NET, EXPECTED, cache=tmp_path, progress=lambda *what: told.append(what))
    assert told[-1][1:] == (len(site.content), len(site.content))


@pytest.mark.parametrize(
    ("what", "wrong"), [("sha256", "0" * 64), ("git_blob", "0" * 40), ("size", 17)]
)
def test_a_file_that_is_not_the_official_one(
    publish: Publish, tmp_path: Path, what: str, wrong: Any
) -> None:
    right = publish()
    publish(**{what: wrong})
    message = refused(tmp_path)
    named = what.replace("_", " ")
    assert f"{right.url}: {named} is {getattr(right, what)}, expected {wrong}" in message


def test_checkpoints_of_older_torch(publish: Publish, tmp_path: Path) -> None:
    publish(pickled({"state_dict": published(own_state())}, zipped=False))
    assert_same(official_weights(NET, EXPECTED, cache=tmp_path), own_state())


def test_git_blob_is_gits(publish: Publish, tmp_path: Path) -> None:
    publish(b"hello\n", git_blob="ce013625030ba8dba906f756967f9e9ca394464a")
    assert "state_dict" in refused(tmp_path)


@pytest.mark.parametrize("length", [None, -1])
def test_a_transfer_that_breaks_off(
    site: Site, publish: Publish, tmp_path: Path, length: int | None
) -> None:
    known = publish()
    site.sent, site.length = site.content[:1000], length
    message = refused(tmp_path)
    assert site.url in message
    found = "1000 " if length is None else f"size is 1000, expected {known.size} "
    assert found in message


def test_a_transfer_that_stalls(
    site: Site, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    monkeypatch.setattr(weights, "_TIMEOUT_SECONDS", 0.1)
    site.before = lambda: time.sleep(0.5)
    assert "timed out" in refused(tmp_path)


def test_an_interrupted_download(publish: Publish, tmp_path: Path) -> None:
    publish()

    def interrupt(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        official_weights(NET, EXPECTED, cache=tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def assert_says_what_else_can_be_done(message: str, url: str) -> None:
    for part in (
        NET,
        url,
        f"give `weights`: a folder with {NET} or {FILE} in it",
        "or 'random' to try",
    ):
        assert part in message


def test_a_file_that_is_not_there(site: Site, publish: Publish, tmp_path: Path) -> None:
    publish()
    site.status = 404
    message = refused(tmp_path)
    assert "404" in message
    assert_says_what_else_can_be_done(message, site.url)


def test_no_server(publish: Publish, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{NET}"
    publish(url=url)
    message = refused(tmp_path)
    assert "refused" in message
    assert_says_what_else_can_be_done(message, url)


def test_two_at_once(
    site: Site, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    both = threading.Barrier(2, timeout=10)
    site.before = both.wait  # answers neither before both have asked
    write = Path.write_bytes

    def write_together(path: Path, content: bytes) -> int:
        written = write(path, content)
        both.wait()
        return written

    monkeypatch.setattr(Path, "write_bytes", write_together)
    states: list[State] = []

    def download() -> None:
        states.append(official_weights(NET, EXPECTED, cache=tmp_path))

    threads = [threading.Thread(target=download) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.requests == 2
    assert len(states) == 2
    for state in [*states, official_weights(NET, EXPECTED, cache=tmp_path)]:
        assert_same(state, own_state())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


class Bait:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_never_run(
    site: Site, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, cache = tmp_path / "trace", tmp_path / "cache"
    bait = pickled({"state_dict": published(own_state()), "bait": Bait(trace)})
    load = torch.load
    load(io.BytesIO(bait), weights_only=False)
    assert trace.exists()
    trace.unlink()

    publish()
    site.content = bait
    (tmp_path / NET).write_bytes(bait)
    with monkeypatch.context() as careless:
        careless.setattr(torch, "load", lambda file, **_: load(file, weights_only=False))
        assert "expected" in refused(cache)
        with pytest.raises(InputError, match="expected"):
            weights_in_file(file_in_folder(tmp_path, NET), NET, EXPECTED)
    publish(bait)  # not even with the hash of the official file
    assert "state_dict" in refused(cache)
    assert not trace.exists()


@pytest.mark.parametrize(
    "document", [[1, 2], {"weights": {}}, {"state_dict": [1]}, {"state_dict": {"a": 1}}]
)
def test_other_pickles(publish: Publish, tmp_path: Path, document: Any) -> None:
    known = publish(pickled(document))
    assert f"{known.url}: no tensors under state_dict" in refused(tmp_path)


MISFITS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "unknown": ({"blocks.9.bn.weight": torch.zeros(3)}, "blocks.9.bn.weight is unknown"),
    "twice": (
        {f"{DEPTH}.bn.bn.weight": torch.zeros(12)},
        f"bn.weight both stand for {DEPTH}.bn.bn.weight",
    ),
    "missing": (
        {f"{PUBLISHED_DEPTH}.bn.weight": None, "classifier.linear.weight": None},
        f"lacks {DEPTH}.bn.bn.weight, expected [12]",
    ),
    "shape": (
        {f"{PUBLISHED_DEPTH}.bn.weight": torch.zeros(13), "classifier.linear.weight": None},
        f"{PUBLISHED_DEPTH}.bn.weight has shape [13], expected [12]",
    ),
    "integers": (
        {f"{PUBLISHED_DEPTH}.bn.weight": torch.zeros(12, dtype=torch.int8)},
        f"{PUBLISHED_DEPTH}.bn.weight holds torch.int8, expected torch.float32",
    ),
    "floats": (
        {"first_conv.bn.num_batches_tracked": torch.tensor(1.0)},
        "first_conv.bn.num_batches_tracked holds torch.float32, expected torch.int64",
    ),
    "truth values": (
        {"first_conv.bn.num_batches_tracked": torch.tensor(True)},
        "first_conv.bn.num_batches_tracked holds torch.bool, expected torch.int64",
    ),
    "nan": (
        {"first_conv.bn.weight": torch.tensor([0, 1, torch.nan, 2])},
        "first_conv.bn.weight holds NaN or infinity",
    ),
    "infinity": (
        {f"{PUBLISHED_DEPTH}.bn.weight": torch.full((12,), -torch.inf)},
        f"{PUBLISHED_DEPTH}.bn.weight holds NaN or infinity",
    ),
    "infinity as float32": (
        {"first_conv.bn.weight": torch.full((4,), 1e300, dtype=torch.float64)},
        "first_conv.bn.weight holds NaN or infinity",
    ),
}


@pytest.mark.parametrize(("changes", "found"), MISFITS.values(), ids=MISFITS)
def test_the_first_key_that_does_not_fit_is_named(
    publish: Publish, tmp_path: Path, changes: dict[str, torch.Tensor | None], found: str
) -> None:
    changed = {**published(own_state()), **changes}
    state = {name: tensor for name, tensor in changed.items() if tensor is not None}
    known = publish(pickled({"state_dict": state}))
    messages = {known.url: refused(tmp_path / "cache")}

    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(InputError) as caught:
        weights_in_file(path, NET, EXPECTED)
    messages[str(path)] = one_line(caught)
    for source, message in messages.items():
        assert message.startswith(f"{source}: ")
        assert found in message


def test_nestings_either_way() -> None:
    flat = {
        "a.bn.weight": (3,),
        "a.conv.weight": (3, 3, 1, 1),
        "a.linear.weight": (3, 3),
    }
    nested = {
        "a.bn.bn.weight": (3,),
        "a.conv.conv.weight": (3, 3, 1, 1),
        "a.linear.linear.weight": (3, 3),
    }
    for ours, theirs in ((flat, nested), (nested, flat)):
        for key, name in zip(ours, theirs, strict=True):
            assert weights._own_key(name, {k: torch.Size(s) for k, s in ours.items()}) == key


def test_kept_tensors_are_plain(publish: Publish, tmp_path: Path) -> None:
    state = own_state()
    both = torch.randn(8)
    state["first_conv.bn.weight"] = both[:4]
    state["blocks.0.conv.point_linear.bn.running_mean"] = both[:4]
    state["classifier.linear.weight"] = torch.randn(16, 10).t()
    state["feature_mix_layer.conv.weight"] = torch.nn.Parameter(torch.randn(16, 12, 1, 1).half())
    state[f"{DEPTH}.bn.bn.num_batches_tracked"] = torch.tensor(7, dtype=torch.int32)
    publish(pickled({"state_dict": published(state)}))
    wanted = {
        key: value.detach().float() if value.is_floating_point() else value.long()
        for key, value in state.items()
    }
    for _ in range(2):
        found = official_weights(NET, EXPECTED, cache=tmp_path)
        assert_same(found, wanted)
        assert not any(tensor.requires_grad for tensor in found.values())
        assert all(tensor.is_contiguous() for tensor in found.values())


def test_a_damaged_file_in_the_cache(site: Site, publish: Publish, tmp_path: Path) -> None:
    publish()
    official_weights(NET, EXPECTED, cache=tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    messages = [damaged(path)]
    path.write_bytes(b"")
    messages.append(damaged(path))
    state = own_state()
    for metadata in (None, {"net_id": "another_net"}):
        save_file(state, path, metadata=metadata)
        messages.append(damaged(path))
        assert f"expected {NET}" in messages[-1]
    save_file({**state, "first_conv.bn.weight": torch.zeros(5)}, path, metadata={"net_id": NET})
    messages.append(damaged(path))
    assert "first_conv.bn.weight has shape [5]" in messages[-1]
    state["first_conv.bn.weight"][1] = torch.nan
    save_file(state, path, metadata={"net_id": NET})
    messages.append(damaged(path))
    assert "first_conv.bn.weight holds NaN" in messages[-1]
    # What it holds must be what was downloaded.
    path.write_bytes(whole)
    metadata, state = read_safetensors(path)
    state["first_conv.bn.weight"][1] += 1e-6
    save_file(state, path, metadata=metadata)
    messages.append(damaged(path))
    assert "not those that were downloaded" in messages[-1]
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in own_state().items()
        }
        save_file(rounded, path, metadata=metadata)
        messages.append(damaged(path))
        assert "not those that were downloaded" in messages[-1]
    assert all(str(path) in message for message in messages)
    assert site.requests == 1
    path.unlink()
    assert_same(official_weights(NET, EXPECTED, cache=tmp_path), own_state())


def damaged(path: Path) -> str:
    with pytest.raises(InputError, match="delete this file") as caught:
        official_weights(NET, EXPECTED, cache=path.parent)
    assert path.exists()
    return one_line(caught)


def test_a_cache_that_cannot_be_written(
    site: Site, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=str(file)) as caught:
        official_weights(NET, EXPECTED, cache=file)
    one_line(caught)
    assert site.requests == 0

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refused(tmp_path / "cache")
    assert str(tmp_path / "cache" / FILE) in message
    assert "No space left" in message


def test_where_the_cache_is(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("AUTOPATCH_CACHE", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "autopatch"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / "home" / ".cache" / "autopatch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("AUTOPATCH_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "autopatch"
    monkeypatch.setenv("AUTOPATCH_CACHE", "~no_such_user/chosen")
    with pytest.raises(InputError, match="AUTOPATCH_CACHE is '~no_such_user/chosen'"):
        cache_folder()
    monkeypatch.setenv("AUTOPATCH_CACHE", "~/chosen")
    assert cache_folder() == tmp_path / "home" / "chosen"
    publish()
    official_weights(NET, EXPECTED)
    assert (tmp_path / "home" / "chosen" / FILE).is_file()


def test_folders(site: Site, publish: Publish, tmp_path: Path) -> None:
    publish()
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=f"{folder}: .*{FILE} or {NET}") as caught:
            weights_in_file(file_in_folder(folder, NET), NET, EXPECTED)
        one_line(caught)

    (tmp_path / NET).write_bytes(site.content)
    assert_same(weights_in_file(file_in_folder(tmp_path, NET), NET, EXPECTED), own_state())
    assert_same(weights_in_file(tmp_path / NET, NET, EXPECTED), own_state())
    assert [path.name for path in tmp_path.iterdir()] == [NET]

    # A safetensors file goes before it.
    other = {key: value + 1 for key, value in own_state().items()}
    for state in (other, published(other)):
        save_file(state, tmp_path / FILE)
        assert_same(weights_in_file(file_in_folder(tmp_path, NET), NET, EXPECTED), other)
    cache = tmp_path / "cache"
    official_weights(NET, EXPECTED, cache=cache)
    assert_same(weights_in_file(file_in_folder(cache, NET), NET, EXPECTED), own_state())
    assert site.requests == 1


def test_files(site: Site, publish: Publish, tmp_path: Path) -> None:
    known = publish()
    path = tmp_path / "renamed.pth"
    path.write_bytes(site.content)
    assert_same(weights_in_file(path, NET, EXPECTED), own_state())
    changed = pickled({"state_dict": own_state()})
    path.write_bytes(changed)
    publish(size=None)
    hashes = f"sha256 is {hashlib.sha256(changed).hexdigest()}, expected {known.sha256}"
    with pytest.raises(InputError, match=f"{path}: {hashes}") as caught:
        weights_in_file(path, NET, EXPECTED)
    one_line(caught)

    path = tmp_path / "other.safetensors"
    save_file(own_state(), path, metadata={"net_id": "another_net"})
    with pytest.raises(InputError, match=f"holds weights of another_net, expected {NET}"):
        weights_in_file(path, NET, EXPECTED)
    path.write_bytes(changed)
    for name in (path.name, "absent", "absent.safetensors", "."):
        with pytest.raises(InputError, match=str(tmp_path / name)) as caught:
            weights_in_file(tmp_path / name, NET, EXPECTED)
        one_line(caught)
