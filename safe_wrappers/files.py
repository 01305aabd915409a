"""Writing files so that a crash, a full disk or Ctrl-C never leaves a half-written one behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move it into place if the block succeeds.

    If the block raises, the temporary file is removed and ``path`` is as it was before.

    Raises:
        OSError: if the folder cannot be written to; the message names it.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    ensure_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.touch(exist_ok=False)  # with the user's usual permissions, which tempfile would narrow
    except OSError as error:
        raise type(error)(error.errno, f"cannot write to the folder ({error.strerror})", str(path.parent)) from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a new temporary folder inside ``folder``; remove it if the block raises, else leave it to the caller."""
    folder = Path(folder)
    ensure_folder(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=".tmp"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def ensure_folder(folder: Path) -> None:
    """Create ``folder`` and its parents.

    Raises:
        OSError: naming the folder and the reason, if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(error.errno, f"cannot create the folder ({error.strerror})", str(folder)) from error
