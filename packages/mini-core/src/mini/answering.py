"""Groups as requests that have one answer each, for wires where nothing else comes back by itself.

Where calls run, a `Responder` answers a group with all that its relay has said of it. What cannot wait for that,
because the group takes a while or streams, is *news*: it goes before, by whatever second way an adapter has. The two
may overtake each other; a `RequestCarrier`, where the caller is, puts what arrives into its order.
"""

from __future__ import annotations

import marshal
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from .adapter import MessageCarrier
from .carrier import Broken, Group, Lost, Returned
from .relay import Relay
from .wire import Frame, Frames, join_frames, split_frames

__all__ = ["Answer", "News", "RequestCarrier", "Responder"]

NEWS_AFTER = 0.25
"""Seconds that a group must have run before there is news of it; shorter ones say everything in their answer."""
NEWS_EVERY = 0.1
"""Seconds between news of a group that is no stream."""

News = tuple[int, int, bytes]
"""The group that it is of, which piece of its news it is, from 0 on, and a message, joined."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes of a group.

    Attributes:
        news: how many pieces of news of the group there were before.
        messages: what was said since then, each joined.
        fault: why the group was not run; empty if it was.
    """

    news: int
    messages: Frames
    fault: str = ""

    def pack(self) -> bytes:
        return join_frames([marshal.dumps((self.news, self.fault)), *self.messages])

    @classmethod
    def unpack(cls, data: Frame) -> Answer:
        head, *messages = split_frames(data, writable=False)
        news, fault = marshal.loads(head)
        return cls(news, messages, fault)


@dataclass(slots=True, eq=False)
class _Running:
    """A group that runs.

    Attributes:
        due: when there may be news of it (monotonic seconds).
        messages: what was said of it and nobody has been told.
        news: how many pieces of news there were.
        telling: some are on their way.
        batch: the groups that it has come with.
    """

    batch: _Batch
    stream: bool
    due: float
    messages: list[bytes] = field(default_factory=list)
    news: int = 0
    telling: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    """Groups that have come together, and are answered together.

    Attributes:
        done: takes the answers, once.
        groups: those that run, by their ids, in the order in which they came.
        faults: why each was not run, empty if it was; None as long as one of them runs.
    """

    done: Callable[[list[Answer]], None] | None
    groups: dict[int, _Running] = field(default_factory=dict)
    faults: list[str] | None = None


class Responder:
    """Where calls run: has a carrier run groups, and answers them. Its methods may be called from any thread.

    Args:
        carrier: runs the groups. The responder drives it, and closes it.
        tell: brings news to the caller. It is called by one thread at a time and may block; what it raises makes the
            same news be told again later.

    Attributes:
        relay: takes orders about groups: `give_back`, `credit`, `doom`, `forget`.
    """

    def __init__(self, carrier: MessageCarrier, tell: Callable[[list[News]], None]) -> None:
        self.relay = Relay(carrier, self._said)
        self._tell = tell
        self._changed = threading.Condition()
        self._groups: dict[int, _Running] = {}
        self._teller: threading.Thread | None = None
        self._asleep = False
        """The teller waits for groups to come."""
        self._closed = False

    def respond(self, message: Frames) -> Answer:
        """Run the group that `message` is; returns what comes of it. Raises nothing that a call raises."""
        return self.respond_all([message])[0]

    def respond_all(self, messages: Sequence[Frames]) -> list[Answer]:
        """Run several groups, one after the other; returns what comes of each when all have ended."""
        done: queue.SimpleQueue[list[Answer]] = queue.SimpleQueue()
        self.start(messages, done.put)
        return done.get()

    def start(self, messages: Sequence[Frames], done: Callable[[list[Answer]], None]) -> None:
        """Have several groups run, one after the other, and do not wait for them.

        `done` is called once, with what comes of each when all have ended; by whichever thread, and with a lock held,
        so it may not wait for anything.
        """
        batch = _Batch(done)
        now = time.monotonic()
        for message in messages:
            (number, *_), head, *_ = marshal.loads(message[0])
            stream = head is not None and head[1] == "stream"
            batch.groups[number] = _Running(batch, stream, now + (0 if stream else NEWS_AFTER))
        with self._changed:
            self._groups |= batch.groups
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell_news, name="mini-news", daemon=True)
                self._teller.start()
            elif self._asleep:
                self._changed.notify_all()
        try:
            self.relay.start(messages, partial(self._ended, batch))
        except Exception as exc:
            self._ended(batch, [exc] * len(messages))

    def close(self) -> None:
        """End all calls and processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for running in list(self._groups.values()):
                self._answer(running.batch)
        self.relay.close()

    def _ended(self, batch: _Batch, faults: Sequence[Exception | None]) -> None:
        """All groups of a batch have ended, and all has been said of them."""
        with self._changed:
            if batch.faults is None:
                batch.faults = ["" if fault is None else str(fault) for fault in faults]
                self._answer(batch)

    def _answer(self, batch: _Batch) -> None:
        """Answer a batch that has ended, unless news of it are on their way: how many there were is in the answer."""
        running = batch.groups.values()
        telling = any(each.telling for each in running) and not self._closed
        if batch.done is None or batch.faults is None or telling:
            return
        answers = [
            Answer(each.news, [*each.messages], fault)
            for each, fault in zip(running, batch.faults, strict=True)
        ]
        for number in batch.groups:
            del self._groups[number]
        done, batch.done = batch.done, None
        done(answers)

    def _said(self, group: int, message: Frames) -> None:
        """The relay says something."""
        data = join_frames(message)
        with self._changed:
            # A report is of several groups; any of those that run takes it along.
            running = self._groups.get(group) or next(iter(self._groups.values()), None)
            if running is not None:
                running.messages.append(data)
                if running.stream:
                    self._changed.notify_all()

    def _tell_news(self) -> None:
        while True:
            with self._changed:
                while not (told := self._due()) and not self._closed:
                    self._asleep = not self._groups
                    self._changed.wait(self._pause())
                    self._asleep = False
                if self._closed:
                    return
            pieces = [
                (number, running.news + n, message)
                for number, running, messages in told
                for n, message in enumerate(messages)
            ]
            try:
                self._tell(pieces)
            except Exception:
                sent, pause = False, NEWS_EVERY
            else:
                sent, pause = True, 0.0
            with self._changed:
                for _, running, messages in told:
                    if sent:
                        running.news += len(messages)
                    else:
                        running.messages[:0] = messages
                    running.telling = False
                    running.due = time.monotonic() + (pause if running.stream else NEWS_EVERY)
                for _, running, _ in told:
                    self._answer(running.batch)

    def _due(self) -> list[tuple[int, _Running, list[bytes]]]:
        """What is to be told now."""
        now = time.monotonic()
        told = []
        for number, running in self._groups.items():
            if running.messages and running.due <= now:
                messages, running.messages = running.messages, []
                running.telling = True
                told.append((number, running, messages))
        return told

    def _pause(self) -> float | None:
        """Seconds until something may be due by itself. What streams say wakes the teller."""
        now = time.monotonic()
        waits = [r.due - now for r in self._groups.values() if r.messages or not r.stream]
        return max(0.01, min(waits)) if waits else None


class RequestCarrier(MessageCarrier):
    """A carrier whose workers are responders. What arrives is brought to `heard` and `answered`, from any thread."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._arriving = threading.Lock()
        self._heard: dict[int, int] = {}
        """How many pieces of news have come, by group."""
        self._early: dict[int, Answer] = {}
        """Answers that have overtaken news."""

    @abstractmethod
    def event_of(self, group: Group, error: BaseException) -> Lost | Broken:
        """What an error of the backend's means for a group: the one place where they are told apart."""

    def heard(self, news: list[News]) -> None:
        """News have come, in their order; some may have come before."""
        with self._arriving:
            for group, number, message in news:
                count = self._heard.get(group, 0)
                if number < count or group not in self.groups:
                    continue
                self._heard[group] = count + 1
                self.post(split_frames(message))
                early = self._early.get(group)
                if early is not None and count + 1 >= early.news:
                    self._over(group, early)

    def untouched(self, group: int) -> None:
        """A group will not be run, and nobody has begun to: all of it is given back."""
        with self._arriving:
            self._settle(group)
            if (waiting := self.groups.get(group)) is not None:
                self.post(Returned(waiting, waiting.count))

    def answered(self, group: int, answer: Answer | BaseException) -> None:
        """The answer of a group has come; or, with an error, none will, nor will news that it waits for."""
        with self._arriving:
            if isinstance(answer, BaseException):
                lost = self.groups.get(group)
                self._settle(group)
                if lost is not None:
                    self.post(self.event_of(lost, answer))
            elif answer.news > self._heard.get(group, 0) and group in self.groups:
                self._early[group] = answer
            else:
                self._over(group, answer)

    def _over(self, number: int, answer: Answer) -> None:
        # What it could not tell, as far as it knows, may have come all the same.
        known = self._heard.get(number, 0) - answer.news
        self._settle(number)
        for message in answer.messages[max(0, known) :]:
            self.post(split_frames(message))
        group = self.groups.get(number)
        if answer.fault and group is not None:
            self.post(Lost(group, None, answer.fault))

    def _settle(self, group: int) -> None:
        self._heard.pop(group, None)
        self._early.pop(group, None)

    @abstractmethod
    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        with self._arriving:
            self._heard.clear()
            self._early.clear()
