"""Writing files so that a kill at any instant leaves the earlier one whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_TORCH_WRITER = ("inline_container", "PytorchStreamWriter")
"""What the RuntimeError of ``torch.save`` names when a file cannot be written."""


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file to; at the end it is synced and takes the place of ``path``.

    After an exception ``path`` is as it was. Parent folders are created.

    >>> with replaced(folder / "note.txt") as beside:
    ...     _ = beside.write_text("done")
    >>> (folder / "note.txt").read_text()
    'done'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with _as_os_errors(target):
            yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside ``path`` to fill; at the end its files are synced and it takes the place of ``path``.

    After an exception ``path`` is as it was.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    # What a killed process of the same number left: in a container every one is number 1.
    if old.exists() and not target.exists():
        os.replace(old, target)
    for left in (beside, old):
        shutil.rmtree(left, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        with _as_os_errors(target):
            yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(beside, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _as_os_errors(target: Path) -> Iterator[None]:
    """A full disk is an OSError, whatever those who write tensors make of it."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in _TORCH_WRITER):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"{target} could not be written: {reason}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets folders be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
