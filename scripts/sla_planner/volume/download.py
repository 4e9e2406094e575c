"""A folder of the volume, copied to a folder here, each file whole and checked.

    list        what the folder holds; links that lead out, and what is no regular file, are left out and told
    compare     files of that name that are here already: the same checksum -> nothing is sent; another -> refused, before anything is, unless forced
    receive     into `.NAME.part`, from where an earlier attempt stopped; in place when the checksum is right

A `Download` remembers what is done: after a broken connection the same one goes on over a new session, and a new one does so too, from the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sla_planner.errors import PlannerError, UnreachableError, UsageError
from sla_planner.volume.client import Listing, Meter, VolumeClient, Want
from sla_planner.volume.paths import shown
from sla_planner.volume.tree import Found, Full, LeftOut, Replacement, Tree

_TOLD = 5  # files named in a message


class Progress(Meter, Protocol):
    """A meter that knows how much there is to do."""

    def expect(self, total_bytes: int, files: int) -> None:
        """How much is to be moved in all, and how many files that is."""

    def file_done(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was done. `new`, `same`, `replaced`: paths below the folder; `total_bytes`: of all of them."""

    new: tuple[str, ...]
    same: tuple[str, ...]
    replaced: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    total_bytes: int


@dataclass
class Download:
    """Of `folder` (its path on the volume) into `output`; `configs`: also YAML files; `force`: replace what differs."""

    folder: str
    output: Path
    configs: bool = True
    force: bool = False
    _new: list[str] = field(default_factory=list)
    _same: list[str] = field(default_factory=list)
    _replaced: list[str] = field(default_factory=list)

    def run(self, client: VolumeClient, progress: Progress) -> Downloaded:
        """Raises `UsageError` (of a person to mend), `UnreachableError` (the same again may help); what has arrived stays."""
        listing = remote_listing(client, self.folder, configs=self.configs)
        tree = Tree(self._made_output(), str(self.output))
        arriving = self._arriving(client, listing, tree, progress)
        total = sum(file.size for file in arriving)
        progress.expect(total, len(arriving))
        receiver = _Arrivals(self, tree, progress)
        wants = [self._want(file, tree, progress) for file in arriving]
        self._check_room(tree, total - sum(want.offset for want in wants))
        try:
            client.fetch(wants, receiver)
        finally:
            receiver.close()
        if receiver.failures:
            raise _failed(receiver.failures)
        return Downloaded(tuple(self._new), tuple(self._same), tuple(self._replaced), listing.left_out, sum(file.size for file in listing.files))

    def here(self, path: str) -> str:
        """Where a file of the volume lies below the output folder."""
        return path[len(self.folder) + 1 :] if self.folder else path

    def arrived(self, path: str, *, replaced: bool) -> None:
        (self._replaced if replaced else self._new).append(path)

    def _made_output(self) -> Path:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"folder {self.output} cannot be made: {error.strerror}", hint="name a folder that this user may write") from None
        return self.output

    def _arriving(self, client: VolumeClient, listing: Listing, tree: Tree, progress: Meter) -> list[Found]:
        """The files that are to be sent. Raises `UsageError` when others of their names are here."""
        done = {*self._new, *self._same, *self._replaced}
        waiting = [file for file in listing.files if file.path not in done]
        differing = [file.path for file in waiting if self._is_here(file, tree)]
        here = {path: tree.digest(self.here(path), progress.read) for path in differing}
        for path, size, sha256 in client.digests(differing):
            if here[path] == (size, sha256):
                self._same.append(path)
        same = set(self._same)
        differing = [path for path in differing if path not in same]
        if differing and not self.force:
            more = f" and {len(differing) - _TOLD} more" if len(differing) > _TOLD else ""
            names = ", ".join(tree.shown(self.here(path)) for path in differing[:_TOLD]) + more
            told = f"{names} {'differs' if len(differing) == 1 else 'differ'} from what is on the volume, nothing was downloaded"
            raise UsageError(told, hint="take another --output-dir, or add --force to replace")
        return [file for file in waiting if file.path not in same]

    def _is_here(self, file: Found, tree: Tree) -> bool:
        kind = tree.kind(self.here(file.path))
        if kind not in ("file", "nothing"):
            raise UsageError(f"{tree.shown(self.here(file.path))} is a {kind}, on the volume it is a file", hint="take another --output-dir")
        return kind == "file"

    def _want(self, file: Found, tree: Tree, progress: Meter) -> Want:
        """With what an earlier attempt has left of it."""
        if not tree.is_begun(self.here(file.path)):
            return Want(file.path)
        with tree.replacing(self.here(file.path)) as part:
            if not 0 < part.kept <= file.size:
                part.discard()
                return Want(file.path)
            return Want(file.path, part.kept, part.kept_digest(progress.read))

    @staticmethod
    def _check_room(tree: Tree, needed: int) -> None:
        if (missing := needed - tree.free_bytes()) > 0:
            raise Full(
                f"{needed:,} bytes are to come, {tree.shown('')} has room for {needed - missing:,}", hint="free some, or take another --output-dir"
            )


class _Arrivals:
    """Writes files as they come."""

    def __init__(self, download: Download, tree: Tree, progress: Progress) -> None:
        self._download, self._tree, self._progress = download, tree, progress
        self.failures: list[tuple[str, PlannerError]] = []
        self._file: Found | None = None
        self._part: Replacement | None = None
        self._replaces = False

    def begin(self, file: Found, start: int) -> None:
        here = self._download.here(file.path)
        self._replaces = self._tree.kind(here) == "file"
        self._file, self._part = file, self._tree.replacing(here)
        if start:
            self._part.kept_digest(lambda _: None)
        if self._part.kept != start:
            self._part.begin_anew()

    def data(self, data: bytes) -> None:
        assert self._part is not None
        self._part.write(data)

    def end(self, sha256: str, *, changed: bool) -> None:
        assert self._part is not None
        assert self._file is not None
        if changed:
            self._part.discard()
            trouble: PlannerError | None = UnreachableError("was written while it was sent")
        else:
            trouble = None if self._part.finish(sha256, self._file.mtime_s) else UnreachableError("arrived damaged")
        path = self._file.path
        self.close()
        if trouble is not None:
            self.failures.append((path, trouble))
            return
        self._download.arrived(path, replaced=self._replaces)
        self._progress.file_done()

    def failed(self, path: str, error: PlannerError) -> None:
        self.close()
        self.failures.append((path, error))

    def close(self) -> None:
        if self._part is not None:
            self._part.__exit__()
        self._file = self._part = None


def remote_listing(client: VolumeClient, folder: str, *, configs: bool) -> Listing:
    """Of a folder that holds files. Raises `UsageError` for one that does not."""
    listing = client.listing(folder, configs=configs)
    if not listing.files:
        why = [f"{shown(each.path)} is {each.why}" for each in listing.left_out[:_TOLD]]
        hint = "; ".join(why) or "has the sweep finished? see kubectl get jobs"
        raise UsageError(f"{shown(folder)} holds no files{'' if configs else ' but YAML ones'}", hint=hint)
    return listing


def _failed(failures: list[tuple[str, PlannerError]]) -> PlannerError:
    told = "; ".join(error.message if shown(path) in error.message else f"{shown(path)} {error.message}" for path, error in failures[:_TOLD])
    more = f" and {len(failures) - _TOLD} more" if len(failures) > _TOLD else ""
    again = all(error.exit_code == UnreachableError.exit_code for _, error in failures)
    kind = UnreachableError if again else UsageError
    return kind(f"{len(failures)} of the files did not arrive: {told}{more}", hint="all others did; the same command goes on from there")
