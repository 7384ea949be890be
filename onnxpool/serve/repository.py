"""The models that a server has: found in a file or a folder, loaded, tried, replaced while they serve, unloaded.

    FOLDER/NAME.onnx                  version 1 of NAME
    FOLDER/NAME/VERSION/model.onnx    versions are numbers; the highest that is ready serves who names none
    MODEL.onnx                        alone: version 1 of MODEL

A file that was replaced is loaded and tried beside the model that serves, which goes on until the new one is ready, and
lives until its last request is answered. A file that cannot be loaded, or whose golden answers do not come out, changes
nothing; clients are told why, but no path. Each load has a thread of its own, one at a time for each model, so that one
that does not end holds up no other. A file counts once two looks in a row have found it the same, so that one that is
still being written waits; a model whose file is gone for two looks is unloaded. Clients name models, never files.
"""

import gc
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias
from weakref import WeakSet

from onnxpool.errors import ArgumentError, OnnxpoolError, SessionError, nearest
from onnxpool.golden import file as golden_file
from onnxpool.run.session import Session, load
from onnxpool.serve.batcher import Batcher, Ran
from onnxpool.serve.limits import NAME, VERSION, Options, Refusal
from onnxpool.serve.metrics import Metrics
from onnxpool.serve.trial import Trial, attempt
from onnxpool.validation import certificate

Key: TypeAlias = tuple[str, str]
"""Name and version."""

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]

_PATIENCE_S = 10.0
"""How long a look waits for loads, before the next look comes."""

_COMPARED = 100
"""Names that an unknown one is compared with, at most."""

_MOST_BYTES = 2 << 30
"""Of one file, which is one message of protobuf."""

log = logging.getLogger("onnxpool.serve")


@dataclass(frozen=True, eq=False)
class Served:
    """A model that is ready."""

    name: str
    version: str
    session: Session
    trial: Trial
    batcher: Batcher

    @property
    def joined_rows(self) -> int:
        """How many rows of different requests may run together; 0 where every request runs alone."""
        return self.batcher.joined_rows


@dataclass(frozen=True)
class Entry:
    """What is known of one file: the model made of it, or why there is none (or why it is not the newest)."""

    path: Path
    stamp: Stamp
    served: Served | None = None
    reason: str = ""


class Repository:
    """Every model in ``path``, a model file or a folder; all are loaded and tried before this returns.

    Raises :class:`ArgumentError` where there is no model, or one has a name that cannot be served, and
    :class:`SessionError` for the first that does not load or whose golden answers do not come out.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options | None = None) -> None:
        self.path: Path = Path(path)
        self.options: Options = options or Options()
        self.metrics: Metrics = Metrics()
        self._entries: dict[Key, Entry] = {}
        self._named: dict[Key, Served] = {}
        self._looks: dict[Key, Stamp] = {}
        self._unloaded: set[str] = set()
        self._loading: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._batchers: WeakSet[Batcher] = WeakSet()
        found = dict(self._scan())
        if not found:
            raise ArgumentError(f"{path} holds no model; give a file, or a folder of NAME.onnx or NAME/1/model.onnx")
        if wrong := [name for name, _ in found if not NAME.fullmatch(name)]:
            raise ArgumentError(f"models cannot be served as {wrong}; use letters, digits, dots, dashes, underscores")
        for key, file in found.items():
            self._entries[key] = self._loaded(key, file)
        self._change(self._entries)
        self._looks = {key: entry.stamp for key, entry in self._entries.items()}
        _let_go()

    # --- asked by requests

    def get(self, name: str, version: str = "") -> Served:
        """The model of this name that serves; refuses (404) where there is none, and says which one is like it."""
        if found := self._named.get((name, version)):
            return found
        entries = {key[1]: entry for key, entry in self._entries.items() if key[0] == name}
        if version:
            entries = {key: entry for key, entry in entries.items() if key == version}
        reason = "; ".join(entry.reason for entry in entries.values())
        what = f"model {name!r:.80}" + (f" version {version!r:.40}" if version else "")
        if reason:
            raise Refusal(404, f"{what} is not loaded: {reason}")
        versions = self.versions(name)
        raise Refusal(
            404, f"there is no {what}" + (f"; it has {', '.join(versions)}" if versions else self._like(name))
        )

    def _like(self, name: str) -> str:
        """Which model may be meant; nothing where to compare them all would keep others waiting."""
        names = self.names()
        return nearest(name, names) if len(names) <= _COMPARED and NAME.fullmatch(name) else ""

    def file(self, served: Served) -> Path | None:
        """The file of a model; None where another has taken its place since it was loaded."""
        for entry in self._entries.values():
            if entry.served is served and not entry.reason and entry.stamp == _stamp(entry.path):
                return entry.path
        return None

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are ready, lowest first."""
        return sorted((key[1] for key, entry in self._entries.items() if key[0] == name and entry.served), key=int)

    def ready(self) -> bool:
        """Whether a model is ready, or none should be; with ``strict_readiness``, whether every one is.

        Those that were unloaded do not count.
        """
        served = [bool(entry.served) for key, entry in self._entries.items() if key[0] not in self._unloaded]
        return all(served) if self.options.strict_readiness else any(served) or not served

    def serving(self) -> list[Served]:
        """Every model that is ready."""
        return [entry.served for entry in self._entries.values() if entry.served]

    def batchers(self) -> list[Batcher]:
        """Those of every model that is ready, or was and still runs."""
        with self._lock:
            return list(self._batchers)

    def names(self) -> list[str]:
        """Every model that is known, ready or not."""
        return sorted({name for name, _ in self._entries})

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Name, version, state and reason of every model, or of those that are ready."""
        return [
            {"name": name, "version": version, "state": "READY" if entry.served else "UNAVAILABLE"}
            | ({"reason": entry.reason} if entry.reason else {})
            for (name, version), entry in sorted(self._entries.items())
            if entry.served or not ready
        ]

    # --- changes; each may take as long as loading a model does, so they run in a thread

    def load(self, name: str) -> None:
        """Load, or load again, every version of a model that the folder has; refuses (404, 422) where that fails.

        Refuses (503) while the model is being loaded, and (504) where it takes longer than a request may; it goes on
        then.
        """

        def work() -> None:
            found = dict(self._scan(name))
            if not found:
                raise Refusal(404, f"there is no model {name!r:.80} in the repository{self._like(name)}")
            for key, file in found.items():
                try:
                    self._put(key, self._loaded(key, file))
                except (OnnxpoolError, OSError) as error:
                    raise Refusal(422, self._told(error)) from error
            self._unloaded.discard(name)

        loading = self._apart(name, work)
        if loading is None:
            raise Refusal(503, f"model {name!r:.80} is being loaded", 1)
        try:
            loading.result(self.options.timeout_s)
        except TimeoutError as error:
            raise Refusal(504, f"model {name!r:.80} is still being loaded") from error
        _let_go()

    def unload(self, name: str) -> None:
        """Forget the sessions of a model; requests that have it already are answered. Refuses (404) an unknown one."""
        keys = [key for key in self._entries if key[0] == name]
        if not keys:
            raise Refusal(404, f"there is no model {name!r:.80}{self._like(name)}")
        self._unloaded.add(name)
        for key in keys:
            self._put(key, replace(self._entries[key], served=None, reason="unloaded"))

    def look(self) -> None:
        """Load files that are new or were replaced, unload those that are gone; waits for loads, but not for long."""
        found = {key: file for key, file in self._scan() if NAME.fullmatch(key[0]) and key[0] not in self._unloaded}
        looks = {key: _stamp(file) for key, file in found.items()}
        changed: dict[str, list[Key]] = {}
        for key, stamp in looks.items():
            entry = self._entries.get(key)
            if self._looks.get(key) == stamp and (entry is None or entry.stamp != stamp):
                changed.setdefault(key[0], []).append(key)
        loading = []
        for name, keys in changed.items():
            files = {key: found[key] for key in keys}
            loading.append(self._apart(name, partial(self._reload, files, looks)))
        wait([one for one in loading if one], _PATIENCE_S)
        for key in [key for key in self._entries if key not in looks and key not in self._looks]:
            if key[0] not in self._unloaded:
                log.warning("%s version %s: its file is gone; unloaded", *key)
                with self._lock:
                    self._change({other: entry for other, entry in self._entries.items() if other != key})
        self._looks = looks
        if loading:
            _let_go()

    def _reload(self, files: dict[Key, Path], stamps: dict[Key, Stamp]) -> None:
        """What serves goes on where the new file is no good."""
        for key, file in files.items():
            try:
                entry = self._loaded(key, file)
            except Exception as error:  # whatever a stranger's file does: what serves goes on
                reason = f"the file on disk is refused: {self._told(error)}"
                log.warning("%s version %s: the file on disk is refused: %s", *key, error)
                entry = replace(self._entries.get(key, Entry(file, stamps[key])), stamp=stamps[key], reason=reason)
            if key[0] not in self._unloaded:
                self._put(key, entry)

    def _apart(self, name: str, work: Callable[[], None]) -> "Future[None] | None":
        """Do this for a model in a thread that keeps nobody from ending; None while another such thread goes on."""
        with self._lock:
            if name in self._loading:
                return None
            loading = self._loading[name] = Future()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # reaches whoever waits, and nobody else
                self._loading.pop(name)
                loading.set_exception(error)
            else:
                self._loading.pop(name)
                loading.set_result(None)

        threading.Thread(target=run, name=f"onnxpool-load-{name}", daemon=True).start()
        return loading

    def _put(self, key: Key, entry: Entry) -> None:
        """Requests go through the entries while they change: each change makes new ones."""
        with self._lock:
            self._change({**self._entries, key: entry})

    def _change(self, entries: dict[Key, Entry]) -> None:
        """Have these, and by name and version, or by name alone, those that serve: the highest version comes last."""
        ready = sorted((entry.served for entry in entries.values() if entry.served), key=lambda one: int(one.version))
        self._entries = entries
        self._named = {(one.name, version): one for one in ready for version in ("", one.version)}

    def _told(self, error: Exception) -> str:
        """What a client may read of an error: nothing of where files are."""
        folder = self.path if self.path.is_dir() else self.path.parent
        text = str(error)
        for place in dict.fromkeys((str(folder.resolve()), str(folder), tempfile.gettempdir())):
            text = text.replace(f"{place}/", "") if place != "." else text
        return text

    def _loaded(self, key: Key, file: Path) -> Entry:
        stamp = _stamp(file)
        try:
            served = self._serve(key, file)
        except OnnxpoolError as error:
            self.metrics.loads.labels(*key, "refused").inc()
            raise SessionError(f"model {key[0]!r} version {key[1]} is not served: {error}") from error
        self.metrics.loads.labels(*key, "loaded").inc()
        log.info("%s version %s: %s; requests are joined %s", *key, served.trial, served.trial.joins)
        return Entry(file, stamp, served)

    def _serve(self, key: Key, file: Path) -> Served:
        stamp = _stamp(file)
        _check(file)
        self._check_certificate(file)
        session = load(
            file,
            runtime=self.options.runtime,
            kernels=self.options.kernels,
            threads=self.options.session_threads,
            libraries=self.options.libraries,
        )
        trial = attempt(session, file)
        if trial.fault and self.options.on_mismatch == "refuse":
            raise SessionError(
                f"{trial.fault}; export it again on this machine's versions, or allow it: on_mismatch=warn"
            )
        if trial.fault or trial.share is None:
            log.warning("%s version %s: %s", *key, trial)
        if _stamp(file) != stamp:
            raise SessionError("its file changed while it was loaded")
        self._check_certificate(file)  # of the very files that were loaded
        self._describe(key, session, trial)
        observe = partial(self._observe, key)
        joins = trial.joins != "never"
        straight = trial.straight and not self.options.libraries and self.options.workers == 1
        batcher = Batcher(
            session.run, self.options, joins=joins, observe=observe, make_stop=session.make_stop, straight=straight
        )
        with self._lock:
            self._batchers.add(batcher)
        return Served(*key, session, trial, batcher)

    def _check_certificate(self, file: Path) -> None:
        if self.options.require_certificate:
            certificate.check_certificate(
                file, public_key=self.options.public_key, libraries=self.options.libraries, serving=True
            )

    def _describe(self, key: Key, session: Session, trial: Trial) -> None:
        self.metrics.pooling.labels(*key).set(len(session.placements))
        self.metrics.native.labels(*key).set(sum(place.native for place in session.placements))
        if trial.share is not None:
            self.metrics.share.labels(*key).set(trial.share)

    def _observe(self, key: Key, ran: Ran) -> None:
        self.metrics.ran(*key, ran.rows, ran.waited_s, ran.run_s)

    def _scan(self, name: str | None = None) -> Iterator[tuple[Key, Path]]:
        """The model files that are there now, or those of one model, without a look at the others."""
        alone = self.path.suffix == ".onnx" and not self.path.is_dir()
        paths = [self.path] if alone else sorted(self.path.iterdir()) if name is None else self._places(name)
        for path in paths:
            if path.suffix == ".onnx" and name in (None, path.stem) and path.is_file():
                yield (path.stem, "1"), path
            elif path.is_dir() and not alone:
                for file in sorted(path.glob("*/model.onnx")):
                    if VERSION.fullmatch(file.parent.name):
                        yield (path.name, file.parent.name), file

    def _places(self, name: str) -> list[Path]:
        """Where the files of a model may be; nowhere for what cannot be its name."""
        return [self.path / f"{name}.onnx", self.path / name] if NAME.fullmatch(name) else []


def _check(file: Path) -> None:
    """Refuse what would not end, or end the memory."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SessionError(f"{file} is not a regular file")
    if found.st_size > _MOST_BYTES:
        raise SessionError(f"{file} has {found.st_size} bytes; an ONNX file has 2 GiB at most, and weights beside it")


def _let_go() -> None:
    """Free the copies of weights that trials have read, which are in cycles.

    It takes time for every object of the process, once for many models; :mod:`onnxpool.serve.server` leaves those out
    that were there at the start.
    """
    gc.collect()


def _stamp(file: Path) -> Stamp:
    """What tells whether a model was replaced: its file, its golden answers, and its weights where they are apart."""
    beside = (path for path in file.parent.glob(f"{file.stem}.*") if path.is_file())
    states = ((path.name, path.stat()) for path in sorted({file, golden_file.path_for(file), *beside}) if path.exists())
    return tuple((name, state.st_mtime_ns, state.st_size, state.st_ino) for name, state in states)
