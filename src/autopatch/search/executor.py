"""Where candidates are evaluated, if not in processes or threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class InProcessExecutor(Executor):
    """Makes each call when it is submitted, in the thread that submits it.

    An `Exception` goes into the future; others, such as KeyboardInterrupt, leave `submit`.
    """

    def submit(
        self,
        fn: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """The finished call."""
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            return _failed(error)
        future: Future[Result] = Future()
        future.set_result(result)
        return future


def _failed(error: Exception) -> Future[Result]:
    # Not in `submit`: its frame hangs on the error's traceback and must not hold the future, which
    # holds the error. Such a cycle would keep the arrays of a failed candidate in memory.
    future: Future[Result] = Future()
    future.set_exception(error)
    return future
