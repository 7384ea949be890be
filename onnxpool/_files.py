"""Files that get their names only when they are complete, so that nobody ever reads half of one.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     complete(Path(folder, "note.txt"), lambda file: file.write_text("done"))
...     Path(folder, "note.txt").read_text()
'done'
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxpool.errors import nearest

_TRIED_BYTES = 4096
"""What is written to see whether anything can be: a block, so that no file is refused that would fit."""

_REMEDIES = {
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some of your quota, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "name a place that you may write to, or change its permissions",
    errno.EPERM: "name a place that you may write to, or change its permissions",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "give it a shorter name",
}


def complete(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make the file under another name; it gets its own when it is complete.

    Raises OSError with the name ``path``, whatever the file was called when writing failed.
    """
    with named(path), tempfile.TemporaryDirectory(prefix=hidden(path), dir=path.parent) as folder:
        file = Path(folder, path.name)
        write(file)
        file.replace(path)


def writable(path: str | os.PathLike[str]) -> None:
    """See that a file ``path`` can be written, before any work; folders that it is to stand in may come later.

    Raises OSError with the name ``path`` where nothing can: no space, a read-only place, a folder of that name.
    """
    with named(Path(path)):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _try(Path(path))


def writable_folder(path: str | os.PathLike[str]) -> None:
    """The same for a folder that is to be written, and may be there."""
    with named(Path(path)):
        if Path(path).exists() and not Path(path).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _try(Path(path))


def _try(path: Path) -> None:
    """Write something that nobody sees beside ``path``, or above it where that folder is not there yet."""
    place = path.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    with tempfile.TemporaryFile(prefix=hidden(path), dir=place, buffering=0) as file:
        left = _TRIED_BYTES
        while left:  # a disk that is nearly full takes a part, and then nothing
            left -= file.write(bytes(left))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, an OSError about a temporary file is one about ``path``: nobody knows the other name."""
    try:
        yield
    except OSError as error:
        about = error.filename
        other = about is not None and hidden(path) not in str(about) and Path(str(about)) not in (path, path.parent)
        if error.errno is None or other:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # of the kind that the number stands for


def told(error: OSError) -> str:
    """An OSError as a sentence: the file, what is wrong, and what to do about it."""
    if error.filename is None or error.errno is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno, "")
    return f"{error.filename}: {error.strerror}{'; ' if remedy else ''}{remedy}"


def missing(model: str | os.PathLike[str]) -> str:
    """What is said of a model file that is not there."""
    return f"there is no model file {os.fspath(model)}{similar(model)}"


def similar(path: str | os.PathLike[str]) -> str:
    """A question after the file beside ``path`` whose name is most like its own, or nothing.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "resnet.onnx").touch()
    ...     similar(Path(folder, "resnt.onnx")).replace(folder, "")
    " (did you mean '/resnet.onnx'?)"
    """
    path = Path(path)
    try:
        beside = [one.name for one in path.parent.iterdir() if not one.name.startswith(".")]
    except OSError:
        return ""
    alike = [name for name in beside if Path(name).suffix == path.suffix] or beside
    return nearest(path.name, alike, lambda name: str(path.with_name(name)))


def hidden(path: Path) -> str:
    """How temporary names beside ``path`` begin; a name's 255 bytes are 63 characters of the longest kind."""
    return f".{path.name[:40]}."
