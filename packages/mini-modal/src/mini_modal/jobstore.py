"""Detached jobs on Modal: facts in `modal.Dict`s, bytes in the volume of their apparatus.

The Dict `mini-NAME` has an entry for each group, and the facts of those that have a single job. A larger group has a
Dict of its own, so that it is read with one answer, whatever other groups there are. An entry has what never changes of
a group's jobs, and there is one for each fact. What jobs print is in another Dict, with the curves of their metrics.
Keys are text and values are JSON, so that anybody can read them.

Modal does not keep Dicts for good; of a group that has ended there is a copy in the volume: see `mini_modal.lasting`.
What only that has is read from it, and is put into a Dict again when somebody adds to it.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mini.errors import MiniError
from mini.jobboard import JobStore, Select
from mini.jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    Fact,
    GroupRecord,
    JobRecord,
    JobState,
    JobStatus,
    Key,
    Report,
    fold,
    from_json,
    to_json,
)
from mini.status import LogLine
from mini.wire import join_frames, split_frames

from .asking import Missing
from .dicts import Texts
from .jobfiles import JobFiles
from .lasting import Copies, Copy

__all__ = ["CallRecord", "ModalJobStore", "place_of"]

log = logging.getLogger("mini")

PACK_BYTES, PACK_INPUTS = 32 << 20, 4096
"""Inputs are kept together in files, of so much at most unless a single one has more."""
MOST_KNOWN = 100_000
"""Facts that are remembered, because they never change."""
FEW = 32
"""So many jobs of a group are asked for one by one; for more, the group is read."""
OLD_SECONDS = 6 * 24 * 3600.0
"""Age from which on Modal may have forgotten some entries of a group. It does after a week without use."""
PUT_AT_ONCE = 2000
"""Entries of a group that are put back with one request."""
MOST_FILES = 50_000
"""Up to so many files, Modal says, a volume of this kind works well. Each job makes one, or two."""
GROUPS = "groups/"
STARTERS = "starters/"
MOST_CHUNKS = 64
"""Pieces of a log that are asked for at once."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What a call at Modal is to run: its inputs are the attempts of `keys` (index and number), in this order.

    `app` is the id of its app; empty if it is not known.
    """

    id: str
    keys: tuple[tuple[int, int], ...]
    app: str = ""


@dataclass(frozen=True, slots=True)
class _Group:
    """What never changes of a group.

    Attributes:
        jobs: of each a short repr of its input, and the time and `left` of its first attempt.
        packs: the index of the first input in each file of inputs.
    """

    record: GroupRecord
    jobs: list[tuple[str, float, int]]
    packs: list[int]

    def pack(self) -> str:
        return json.dumps({"group": to_json(self.record), "jobs": self.jobs, "packs": self.packs})

    @classmethod
    def unpack(cls, text: str) -> _Group:
        data = json.loads(text)
        jobs = [(brief, created, left) for brief, created, left in data["jobs"]]
        return cls(from_json(GroupRecord, data["group"]), jobs, data["packs"])


Facts = dict[int, dict[str, str]]
"""By the number of the attempt and the kind: "created" (not of the first), "claimed", "ended", "report"."""
_KINDS: dict[type, str] = {Created: "created", Claimed: "claimed", Ended: "ended", Report: "report"}


class ModalJobStore(JobStore):
    """Keeps the jobs of the apparatus `name`; safe to use from several threads.

    Args:
        name: of the apparatus.
        files: of its volume.
        patient: wait for up to a minute when Modal cannot be reached.
    """

    def __init__(self, name: str, files: JobFiles, *, patient: bool = False) -> None:
        self.index = Texts(f"mini-{name}", patient=patient)
        self._patient = patient
        self._files = files
        self._copies = Copies(files)
        self._forgotten: set[str] = set()
        """Groups that were last read from a copy, because Modal had nothing of them."""
        self._copied_entries: dict[str, tuple[Copy, dict[str, str]]] = {}
        self._curves: tuple[Key, bytes] | None = None
        """The curves that were last put here, and whose they are."""
        self._said_by_lone = Texts(f"mini.{name}", patient=patient)
        self._facts: dict[str, Texts] = {}
        self._logs: dict[str, Texts] = {}
        self._sizes: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._known: dict[tuple[str, str], str] = {}
        self._said: dict[Key, tuple[int, int]] = {}
        """Lines and pieces of an attempt's log that were written here."""
        self._seen: dict[Key, tuple[int, int]] = {}
        """Lines and pieces of it that were last read."""
        self._pack: tuple[str, list[Any]] = ("", [])

    # --- writing ---

    def create(
        self, group: GroupRecord, records: Sequence[JobRecord], program: bytes, inputs: Sequence[bytes]
    ) -> None:
        if group.size > MOST_FILES:
            log.warning(
                "each of these %d jobs leaves a file in the volume, and Modal advises against more than %d; "
                "have each job take many inputs, and remove launches that are done with",
                group.size,
                MOST_FILES,
            )
        packs = list(_packs(inputs))
        files = {f"{group.id}/program": program}
        for number, (start, end) in enumerate(itertools.pairwise([*packs, len(inputs)])):
            files[f"{group.id}/inputs-{number}"] = join_frames(inputs[start:end])
        self._files.write(files)
        jobs = [(r.input, r.current.created.time, r.current.created.left) for r in records]
        whole = _Group(group, jobs, packs)
        self._sizes[group.id] = group.size
        self._dict(group.id).put({f"{group.id}/jobs": whole.pack()}, create=True)
        # From here on it is there, whole.
        self.index.put({f"{GROUPS}{group.id}": to_json(group)}, create=True)
        self._groups[group.id] = whole

    def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
        added = [False] * len(facts)
        wanted: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for at, ((id, number), fact) in enumerate(facts):
            group, index = place_of(id)
            whole = self._group(group)
            if (
                whole is None
                or not 0 <= index < len(whole.jobs)
                or (isinstance(fact, Created) and number == 1)
            ):
                continue
            key = _key(index, number, _KINDS[type(fact)])
            wanted[group].append((at, key, to_json(fact)))
        for group, some in wanted.items():
            some = self._of_attempts(group, some)
            if group in self._forgotten:
                self._put_back(group)
            answers = self._dict(group).add((f"{group}/{key}", text) for _, key, text in some)
            if answers is None:
                self._forget(group)
                continue
            for (at, _, _), answer in zip(some, answers, strict=True):
                added[at] = answer
        return added

    def _of_attempts(self, group: str, facts: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
        """Without those of attempts that nobody has created."""
        created = {key: _created(key) for _, key, _ in facts}
        keys = sorted({key for key in created.values() if key})
        there = dict(zip(keys, self._get(group, keys) or [], strict=False))
        return [each for each in facts if not created[each[1]] or there.get(created[each[1]]) is not None]

    def put_report(self, key: Key, report: Report) -> None:
        group, index = place_of(key[0])
        if index < self._size(group):
            self._dict(group).put({f"{group}/{_key(index, key[1], 'report')}": to_json(report)})

    def put_curves(self, key: Key, data: bytes) -> None:
        group, index = place_of(key[0])
        if index < self._size(group):
            self._log(group).put({f"{group}/{_key(index, key[1], 'curves')}": data.decode()}, create=True)
            self._curves = (key, data)

    def add_log(self, key: Key, lines: Sequence[LogLine]) -> None:
        group, index = place_of(key[0])
        if not index < self._size(group):
            return
        count, piece = self._said.get(key) or self._end_of_log(key)
        text = json.dumps([count, [[line.stream, line.text] for line in lines]])
        self._log(group).put({f"{group}/{index}/{key[1]}/{piece}": text}, create=True)
        self._said[key] = (count + len(lines), piece + 1)

    def put_call(self, group: str, call: CallRecord) -> None:
        """Keep what a call at Modal is to run."""
        text = json.dumps([call.id, call.keys, call.app])
        for number in itertools.count():
            answers = self._dict(group).add([(f"{group}/call/{number}", text)])
            if answers is None or answers[0]:
                return

    def remove(self, group: str) -> None:
        size = self._size(group)
        self._copies.remove(group)
        if size > 1:
            self.index.pop(f"{GROUPS}{group}")
            self._dict(group).delete()
            self._log(group).delete()
        else:
            keys = [key for key in self.index.all() if key.startswith(f"{group}/")]
            self.index.pop(f"{GROUPS}{group}")
            for key in keys:
                self.index.pop(key)
            for number in range(1, 1 + sum(key.endswith("/claimed") for key in keys)):
                for piece, _ in enumerate(list(self._pieces((f"{group}-0", number), 0))):
                    self._log(group).pop(f"{group}/0/{number}/{piece}")
                self._log(group).pop(f"{group}/0/{number}/curves")
        self._files.remove(group)
        self._copies.remove(group)  # a reader may have made one meanwhile
        self._forget(group)

    # --- reading ---

    def groups(self) -> list[GroupRecord]:
        found = {
            key.removeprefix(GROUPS): from_json(GroupRecord, text)
            for key, text in self.index.all().items()
            if key.startswith(GROUPS)
        }
        for id in self._copies.groups():
            if id not in found and (whole := self._group(id)) is not None:
                found[id] = whole.record
        return [found[id] for id in sorted(found)]

    def read(self, select: Select) -> Iterable[JobRecord]:
        found: list[JobRecord] = []
        for whole, facts in self._selected(select, reports=True):
            record = whole.record
            for index, of_job in facts:
                brief, created, left = whole.jobs[index]
                attempts = tuple(_attempts(of_job, Created(created, left)))
                id = f"{record.id}-{index}"
                job = JobRecord(id, record.id, index, brief, record.function, record.origin, attempts)
                if select.takes(job):
                    found.append(job)
        return found

    def states(self, select: Select) -> list[JobStatus]:
        found: list[JobStatus] = []
        for whole, facts in self._selected(select, reports=False):
            for index, of_job in facts:
                job = _status(whole, index, of_job)
                if select.takes(job):
                    found.append(job)
        return found

    def calls(self, group: str) -> list[CallRecord]:
        """The calls at Modal that run a group's jobs, in the order in which they were made."""
        found: list[CallRecord] = []
        for start in itertools.count(step=4):
            for text in self._get(group, [f"call/{number}" for number in range(start, start + 4)]) or [None]:
                if text is None:
                    return found
                id, keys, *app = json.loads(text)
                found.append(CallRecord(id, tuple((index, number) for index, number in keys), *app))
        raise AssertionError("a count does not end")

    def facts(self, id: str) -> Facts:
        """All that is known of a job's attempts."""
        group, index = place_of(id)
        return self._facts_of(group, [index], reports=False)[index]

    def program(self, group: str) -> bytes:
        return self._file(f"{group}/program")

    def input(self, id: str) -> bytes:
        group, index = place_of(id)
        whole = self._group(group)
        if whole is None or not 0 <= index < len(whole.jobs):
            raise Missing(f"there is no job {id!r}; it was removed")
        number = bisect_right(whole.packs, index) - 1
        path = f"{group}/inputs-{number}"
        if self._pack[0] != path:
            self._pack = (path, split_frames(self._file(path), writable=False))
        return bytes(self._pack[1][index - whole.packs[number]])

    def put_source(self, digest: str, archive: bytes) -> None:
        self._files.write({f"source/{digest}": archive})

    def source(self, digest: str) -> bytes:
        return self._file(f"source/{digest}")

    def put_outcome(self, key: Key, data: bytes) -> None:
        files = {_outcome(key): data}
        if self._curves is not None and self._curves[0] == key:  # it costs nothing to have them last as long
            files[_curves_file(key)] = self._curves[1]
        self._files.write(files)

    def outcome(self, key: Key) -> bytes:
        return self._file(_outcome(key))

    def outcomes(self, keys: Sequence[Key]) -> Iterator[bytes]:
        return self._files.read_all(list(map(_outcome, keys)))

    def curves(self, keys: Sequence[Key]) -> Iterator[bytes | None]:
        of_group: dict[str, list[Key]] = defaultdict(list)
        for key in keys:
            of_group[place_of(key[0])[0]].append(key)
        found: dict[Key, bytes | None] = {}
        for group, some in of_group.items():
            names = [f"{group}/{_key(place_of(id)[1], number, 'curves')}" for id, number in some]
            texts = self._log(group).get(names) or [None] * len(some)
            for key, text in zip(some, texts, strict=True):
                found[key] = None if text is None else text.encode()
            if group in self._forgotten or self._is_old(group):
                missing = [key for key in some if found[key] is None]
                found |= zip(missing, self._files.read_some(list(map(_curves_file, missing))), strict=True)
        return (found[key] for key in keys)

    def keep(self, group: str) -> None:
        """Make a copy of a group that lasts, unless some of its jobs have not begun: then others run after us."""
        entries = self._own(group)
        if (whole := self._whole(group, entries)) is not None and all(_begun(facts) for _, facts in whole[1]):
            self._copies.keep(group, _count_ended(whole[1]), entries)

    def _file(self, path: str) -> bytes:
        return self._files.read(path)

    def log(self, key: Key, start: int = 0) -> list[LogLine]:
        seen, piece = self._seen.get(key, (0, 0))
        if seen != start:
            seen, piece = 0, 0
        index = place_of(key[0])[1]
        found: list[LogLine] = []
        for first, lines in self._pieces(key, piece):
            found += [LogLine(key[0], index, stream, text) for stream, text in lines[max(0, start - first) :]]
            seen, piece = first + len(lines), piece + 1
        self._seen[key] = (seen, piece)
        return found

    def _pieces(self, key: Key, start: int) -> Iterator[tuple[int, list[Any]]]:
        """The pieces of a log from one on: the number of their first line, and their lines."""
        group, index = place_of(key[0])
        count = 1
        while True:
            keys = [f"{group}/{index}/{key[1]}/{piece}" for piece in range(start, start + count)]
            for text in self._log(group).get(keys) or [None]:
                if text is None:
                    return
                first, lines = json.loads(text)
                yield first, lines
            start, count = start + count, min(count * 4, MOST_CHUNKS)

    def _end_of_log(self, key: Key) -> tuple[int, int]:
        lines, pieces = 0, 0
        for first, some in self._pieces(key, 0):
            lines, pieces = first + len(some), pieces + 1
        return lines, pieces

    # --- inside ---

    def _size(self, group: str) -> int:
        """How many jobs a group has; 0 if it is gone, as far as is known here."""
        if group and group not in self._sizes:
            text = (self.index.get([f"{GROUPS}{group}"]) or [None])[0]
            if text is not None:
                self._sizes[group] = from_json(GroupRecord, text).size
            elif (copy := self._copies.read(group)) is not None:
                self._sizes[group] = _Group.unpack(copy.entries["jobs"]).record.size
        return self._sizes.get(group, 0)

    def _dict(self, group: str) -> Texts:
        if self._size(group) <= 1:
            return self.index
        return self._facts.setdefault(group, Texts(f"mini--jobs-{group}", patient=self._patient))

    def _log(self, group: str) -> Texts:
        if self._size(group) <= 1:
            return self._said_by_lone
        return self._logs.setdefault(group, Texts(f"mini--logs-{group}", patient=self._patient))

    def _forget(self, group: str) -> None:
        for memory in (self._sizes, self._groups, self._facts, self._logs):
            memory.pop(group, None)
        self._forgotten.discard(group)
        self._known = {key: text for key, text in self._known.items() if key[0] != group}

    def _group(self, id: str) -> _Group | None:
        if id not in self._groups:
            text = (self._get(id, ["jobs"]) or [None])[0]
            if text is None:
                return None
            self._groups[id] = _Group.unpack(text)
        return self._groups[id]

    def _selected(
        self, select: Select, *, reports: bool
    ) -> Iterator[tuple[_Group, Iterable[tuple[int, Facts]]]]:
        """The groups that a selection is about, and the facts of those jobs of them that it is about."""
        ids = select.ids
        if ids is None:
            if select.group is None or self._size(select.group) > 1:
                for group, entries in self._entries(select.group):
                    if (found := self._whole(group, entries)) is not None:
                        yield found
                return
            ids = [f"{select.group}-0"]
        wanted: dict[str, set[int]] = defaultdict(set)
        for id in ids:
            group, index = place_of(id)
            if select.group in (None, group):
                wanted[group].add(index)
        for group, indices in sorted(wanted.items()):
            if len(indices) > FEW:
                if (found := self._whole(group, self._own(group))) is not None:
                    yield found[0], [each for each in found[1] if each[0] in indices]
                continue
            whole = self._group(group)
            some = sorted(index for index in indices if whole and 0 <= index < len(whole.jobs))
            if whole is not None and some:
                facts = self._facts_of(group, some, reports=reports)
                yield whole, [(index, facts[index]) for index in some if index in facts]

    def _entries(self, group: str | None) -> Iterator[tuple[str, dict[str, str]]]:
        """All entries of a group that has a Dict of its own, or of each group: few answers, however many jobs."""
        if group is not None:
            yield group, self._own(group)
            return
        of_group: dict[str, dict[str, str]] = defaultdict(dict)
        for key, text in self.index.all().items():
            first, _, rest = key.partition("/")
            of_group[first][rest] = text
        for id, text in of_group[GROUPS.rstrip("/")].items():
            self._sizes[id] = from_json(GroupRecord, text).size
        for id in sorted({*of_group[GROUPS.rstrip("/")], *self._copies.groups()}):
            yield id, self._own(id) if self._size(id) > 1 else self._with_copy(id, of_group[id])

    def _own(self, group: str) -> dict[str, str]:
        """All entries of a group. Those of one without a Dict of its own come with those of others."""
        prefix = f"{group}/"
        found = self._dict(group).all()
        entries = {key.removeprefix(prefix): text for key, text in found.items() if key.startswith(prefix)}
        return self._with_copy(group, entries)

    def _with_copy(self, group: str, entries: dict[str, str]) -> dict[str, str]:
        """All entries of a group, given those that Modal has."""
        if "jobs" not in entries:
            return self._copied(group) or {}
        self._forgotten.discard(group)
        whole = self._groups.get(group) or _Group.unpack(entries["jobs"])
        if _is_old(whole) and (copy := self._copies.read(group)) is not None:
            return {**copy.entries, **entries}
        return entries

    def _copied(self, group: str) -> dict[str, str] | None:
        """The entries of a group of which Modal has nothing; None if there is no copy either.

        What had not ended when the copy was made is lost: nobody can tell any more.
        """
        if (copy := self._copies.read(group)) is None:
            return None
        self._forgotten.add(group)
        known = self._copied_entries.get(group)
        if known is None or known[0] is not copy:
            lost = to_json(Ended(copy.time, JobState.LOST))
            whole, jobs = _take_apart(copy.entries)
            self._groups[group], self._sizes[group] = whole, whole.record.size
            keys = [_key(index, _current(facts), "ended") for index, facts in jobs]
            known = self._copied_entries[group] = (copy, {**dict.fromkeys(keys, lost), **copy.entries})
        return known[1]

    def _put_back(self, group: str) -> None:
        """Have Modal know a group again of which there is a copy."""
        entries = self._copied(group)
        if entries is None:
            return
        items = [(f"{group}/{key}", text) for key, text in entries.items()]
        for at in range(0, len(items), PUT_AT_ONCE):
            self._dict(group).put(dict(items[at : at + PUT_AT_ONCE]), create=True)
        record = _Group.unpack(entries["jobs"]).record
        self.index.put({f"{GROUPS}{group}": to_json(record)}, create=True)
        self._forgotten.discard(group)

    def _whole(self, group: str, entries: Mapping[str, str]) -> tuple[_Group, list[tuple[int, Facts]]] | None:
        """A group with all its facts."""
        if "jobs" not in entries:
            self._forget(group)
            return None
        whole, facts = _take_apart(entries, self._groups.get(group))
        self._groups[group] = whole
        if group not in self._forgotten and all("ended" in f.get(_current(f), ()) for _, f in facts):
            # Who only reads may not be allowed to write, and has its answer all the same.
            with suppress(MiniError, OSError):
                self._copies.keep(group, _count_ended(facts), entries)
        return whole, facts

    def _facts_of(self, group: str, indices: Sequence[int], *, reports: bool) -> dict[int, Facts]:
        """The facts of some jobs; none if the group is gone."""
        found: dict[int, Facts] = {index: {} for index in indices}
        number, left = 1, list(indices)
        while left:
            kinds = [
                "claimed",
                "ended",
                *(["created"] if number > 1 else []),
                *(["report"] if reports else []),
            ]
            keys = [(index, kind) for index in left for kind in kinds]
            texts = self._get(group, [_key(index, number, kind) for index, kind in keys])
            if texts is None:
                return {}
            for (index, kind), text in zip(keys, texts, strict=True):
                if text is not None:
                    found[index].setdefault(number, {})[kind] = text
            left = [index for index in left if "ended" in found[index].get(number, {})]
            number += 1
        return found

    def _get(self, group: str, keys: Sequence[str]) -> list[str | None] | None:
        """Entries of a group; those that never change are asked for until they are there. None if it is gone."""
        lone = self._size(group) <= 1
        missing = [key for key in keys if (group, key) not in self._known]
        # In a Dict that others share, that it is there does not say that the group is.
        sign = f"{GROUPS}{group}" if lone else f"{group}/jobs"
        asked = [f"{group}/{key}" for key in missing] + ([sign] if lone or not missing else [])
        texts = self._dict(group).get(asked)
        now = dict(zip(missing, texts or (), strict=False))
        lacks_sign = texts is not None and len(asked) > len(missing) and texts[-1] is None
        if texts is None or lacks_sign or now.get("jobs", "") is None:
            self._forget(group)
            copied = self._copied(group)
            return None if copied is None else [copied.get(key) for key in keys]
        self._forgotten.discard(group)
        if len(self._known) > MOST_KNOWN:
            self._known = {}
        found = [self._known.get((group, key), now.get(key)) for key in keys]
        for key, text in now.items():
            if text is not None and not key.endswith("report"):
                self._known[group, key] = text
        if None in found and self._is_old(group) and (copy := self._copies.read(group)) is not None:
            return [
                copy.entries.get(key) if text is None else text for key, text in zip(keys, found, strict=True)
            ]
        return found

    def _is_old(self, group: str) -> bool:
        whole = self._groups.get(group)
        return whole is not None and _is_old(whole)


def place_of(id: str) -> tuple[str, int]:
    """The group of a job and its index in it; an index that no job has, if it is no job's id."""
    group, _, index = id.rpartition("-")
    return group, int(index) if index.isdecimal() and index.isascii() else -1


def _key(index: int, number: int, kind: str) -> str:
    return f"{index}/{number}/{kind}"


def _created(key: str) -> str:
    """The entry that says that there is the attempt which an entry is about; empty if that needs no saying."""
    index, number, kind = key.split("/")
    return "" if number == "1" or kind == "created" else _key(int(index), int(number), "created")


def _outcome(key: Key) -> str:
    group, index = place_of(key[0])
    return f"{group}/outcomes/{index}-{key[1]}"


def _curves_file(key: Key) -> str:
    group, index = place_of(key[0])
    return f"{group}/curves/{index}-{key[1]}"


def _is_old(group: _Group) -> bool:
    """Whether Modal may have forgotten something of a group."""
    return time.time() - group.record.origin.launched > OLD_SECONDS


def _take_apart(
    entries: Mapping[str, str], whole: _Group | None = None
) -> tuple[_Group, list[tuple[int, Facts]]]:
    """A group, unless it is given, and the facts of its jobs, from its entries."""
    whole = whole or _Group.unpack(entries["jobs"])
    facts: list[Facts] = [{} for _ in whole.jobs]
    for key, text in entries.items():
        parts = key.split("/")
        if len(parts) == 3:
            facts[int(parts[0])].setdefault(int(parts[1]), {})[parts[2]] = text
    return whole, list(enumerate(facts))


def _current(facts: Facts) -> int:
    """The number of a job's current attempt."""
    return max((number for number, texts in facts.items() if "created" in texts), default=1)


def _begun(facts: Facts) -> bool:
    now = facts.get(_current(facts), {})
    return "claimed" in now or "ended" in now


def _count_ended(jobs: Iterable[tuple[int, Facts]]) -> int:
    return sum("ended" in texts for _, facts in jobs for texts in facts.values())


def _packs(inputs: Sequence[bytes]) -> Iterator[int]:
    """Where a file of inputs begins."""
    size, count = PACK_BYTES + 1, 0
    for index, data in enumerate(inputs):
        size, count = size + len(data), count + 1
        if size > PACK_BYTES or count > PACK_INPUTS:
            yield index
            size, count = len(data), 1


def _attempts(facts: Facts, first: Created) -> Iterator[Attempt]:
    for number in itertools.count(1):
        texts = facts.get(number, {})
        if number > 1 and "created" not in texts:
            return
        created = first if number == 1 else from_json(Created, texts["created"])
        known: list[Fact] = [created]
        if "claimed" in texts:
            known.append(from_json(Claimed, texts["claimed"]))
        if "ended" in texts:
            known.append(from_json(Ended, texts["ended"]))
        report = from_json(Report, texts["report"]) if "report" in texts else None
        yield fold(number, known, report)


def _status(whole: _Group, index: int, facts: Facts) -> JobStatus:
    number = _current(facts)
    texts: Mapping[str, str] = facts.get(number, {})
    _, time, left = whole.jobs[index]
    if number > 1:
        created = from_json(Created, texts["created"])
        time, left = created.time, created.left
    claimed = from_json(Claimed, texts["claimed"]) if "claimed" in texts else None
    state = JobState.PENDING if claimed is None else JobState.RUNNING
    if "ended" in texts:
        state = JobState(json.loads(texts["ended"])["state"])
    worker = None if claimed is None else claimed.worker
    return JobStatus(f"{whole.record.id}-{index}", whole.record.id, index, number, state, time, left, worker)
