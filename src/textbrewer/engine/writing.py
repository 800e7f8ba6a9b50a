"""Writing to disk while training goes on, one thing after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

logger = logging.getLogger("textbrewer")


class Writer:
    """Runs what writes: at once, or in a thread, of which one write is under way at a time.

    An error of the thread is raised by the next call, or at the end.

    Args:
        in_background: use a thread.
    """

    def __init__(self, in_background: bool) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="textbrewer-writer") if in_background else None
        self._under_way: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Wait for the last write."""
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            logger.error("%s", error)  # the run is already ending with another error
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def __call__(self, write: Callable[[], Any]) -> None:
        """Run ``write``; with a thread, once the write before it is done."""
        if self._thread is None:
            write()
            return
        self.wait()
        self._under_way = self._thread.submit(write)

    def wait(self) -> None:
        """Until nothing is being written; raises what the write raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
