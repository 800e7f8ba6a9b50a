"""Ctrl-C and SIGTERM, which ask a run to stop after its step."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, NoReturn, Self

logger = logging.getLogger("textbrewer")


class Interruption:
    """Within it the first such signal is noted, and the second does what it always did.

    Args:
        noted: whether signals are noted at all; else nothing changes.
    """

    def __init__(self, noted: bool) -> None:
        self.noted = noted and threading.current_thread() is threading.main_thread()
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.noted:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._put_back()
        self.asked = number
        name = signal.Signals(number).name
        logger.warning("%s: stopping after this step, with a checkpoint; once more to leave at once", name)

    def _put_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def leave(self, number: int) -> NoReturn:
        """End the run as the signal would have.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            SystemExit: for SIGTERM, with the status a shell gives it.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
