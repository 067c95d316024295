"""The default executor: evaluates candidates in the calling thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class InProcessExecutor(Executor):
    """Runs each call when it is submitted, in the submitting thread.

    If the call raises an `Exception`, the future holds it. Any other BaseException, such as
    KeyboardInterrupt, is raised by `submit`.
    """

    def submit(
        self,
        fn: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Runs the call and returns its finished future."""
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            return _failed(error)
        future: Future[Result] = Future()
        future.set_result(result)
        return future


def _failed(error: Exception) -> Future[Result]:
    # A function of its own, because the error's traceback holds the frame of `submit`. If that
    # frame held the future, which holds the error, the cycle would keep the candidate's arrays in
    # memory.
    future: Future[Result] = Future()
    future.set_exception(error)
    return future
