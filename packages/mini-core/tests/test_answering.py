"""`mini.answering`: what comes of a group arrives once and in its order, whichever way is the slower one."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import mini
import pytest
from mini.answering import Answer, News, RequestCarrier, Responder
from mini.carrier import Broken, Carrier, Group, Lost, Task
from mini.conformance.probes import until
from mini.local.pool import ProcessPool
from mini.options import Options
from mini.wire import join_frames, split_frames
from pipe_adapter import PipeApparatus


class Way:
    """Brings things over, each after a while; news now and then fail, and then some may have arrived."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.failures = 0

    def news(self, arrive: Callable[[list[News]], None], news: list[News]) -> None:
        time.sleep(self.random.choice([0, 0, 0.001, 0.02]))
        if self.random.random() < 0.2:
            self.failures += 1
            arrive(news[: self.random.randint(0, len(news))])
            raise ConnectionError("the way is blocked")
        arrive(news)


class AnsweringCarrier(RequestCarrier):
    """Responders in threads of this process, with a way for news that is slower than that for answers."""

    def __init__(self, width: int, way: Way) -> None:
        super().__init__(width)
        self._pool = ThreadPoolExecutor(2 * width)
        self._responders = [
            Responder(ProcessPool(1, {}), lambda news: way.news(self._later, news)) for _ in range(width)
        ]
        self._slow_way = ThreadPoolExecutor(1)
        self._way = way
        self._at: dict[int, Responder] = {}

    def _later(self, news: list[News]) -> None:
        def arrive() -> None:
            time.sleep(self._way.random.choice([0, 0.005]))
            self.heard(news)

        self._slow_way.submit(arrive)

    def room(self, task: Task) -> int:
        return (2 if task.quick else 1) * self.width - len(self._at)

    def start(self, group: Group) -> str:
        responder = min(self._responders, key=lambda one: sum(at is one for at in self._at.values()))
        self._at[group.id] = responder
        data = join_frames(self.pack(group, program=True))
        self._pool.submit(self._run, responder, group.id, data)
        return f"responder {self._responders.index(responder) + 1}"

    def _run(self, responder: Responder, group: int, data: bytes) -> None:
        answer = responder.respond(split_frames(data))
        self.answered(group, Answer.unpack(answer.pack()))

    def event_of(self, group: Group, error: BaseException) -> Lost | Broken:
        return Broken(error)

    def ended(self, group: Group) -> None:
        del self._at[group.id]

    def give_back(self, group: Group) -> None:
        self._at[group.id].relay.give_back(group.id)

    def credit(self, task: Task, count: int) -> None:
        for responder in self._responders:
            responder.relay.credit(task.id, count)

    def forget(self, task: Task) -> None:
        for responder in self._responders:
            responder.relay.forget(task.id)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        for responder in self._responders:
            responder.close()
        self._pool.shutdown()
        self._slow_way.shutdown()
        self._at.clear()


class AnsweringApparatus(PipeApparatus):
    backend: ClassVar[str] = "answering"
    way: ClassVar[Way] = Way(0)

    def _open_carrier(self, options: Options) -> Carrier:
        return AnsweringCarrier(options.max_workers or 2, self.way)


@pytest.fixture(params=range(3))
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mini.Apparatus]:
    AnsweringApparatus.way = Way(request.param)
    with AnsweringApparatus("answering", max_workers=2, data_dir=str(tmp_path)).w(progress=False) as app:
        yield app


def test_quick_groups_come_whole(app: mini.Apparatus) -> None:
    assert list(app.map(lambda x: x + 1, range(5000))) == [*range(1, 5001)]


def test_a_stream_comes_in_order_and_once_though_news_are_lost_and_repeated(app: mini.Apparatus) -> None:
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    assert list(app.stream(count, 400)) == [*range(400)]
    assert AnsweringApparatus.way.failures


def test_what_a_long_call_prints_comes_while_it_runs_in_order_and_once(
    app: mini.Apparatus, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"

    def talk(path: Path) -> None:
        for number in range(1000):
            print(number)
            if path.exists():  # somebody has heard the beginning
                break
            time.sleep(0.01)
        print("end")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(app.run, talk, heard)
        until(lambda: app.logs() or call.done(), 20, "the first line")
        assert not call.done()
        heard.touch()
        call.result()
    lines = [line.text for line in app.logs()]
    assert lines == [*map(str, range(len(lines) - 1)), "end"]


def test_a_call_that_dies_is_told_apart(app: mini.Apparatus) -> None:
    outcomes = list(app.map(lambda x: os._exit(3) if x == 7 else x, range(50), return_exceptions=True))
    assert isinstance(outcomes[7], mini.WorkerLost)
    assert outcomes[:7] + outcomes[8:] == [*range(7), *range(8, 50)]
