"""A small thread pool for reading images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MAX_THREADS = 8

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    told: Callable[[int, int], None] | None = None,
) -> list[_Result]:
    """Maps a function over items in a small thread pool; the results are in the items' order.

    Decoding and resizing release the GIL.

    Args:
        function: Called on every item.
        items: The items.
        told: Called after every item with the number of items done, and their total.
    """
    with image_threads() as pool:
        futures = [pool.submit(function, item) for item in items]
        results = []
        try:
            for future in futures:
                results.append(future.result())
                if told is not None:
                    told(len(results), len(futures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return results


def image_threads() -> ThreadPoolExecutor:
    """A pool of up to eight threads."""
    return ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "autopatch-images")
