"""Dicts, through the real client."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import modal
import pytest
from covers import covers
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError, RequestSizeError
from modal_emulator.services import dicts
from modal_emulator.settings import Settings
from storage_plane import Plane, connected, serving

pytestmark = pytest.mark.slow

KEYS = st.one_of(st.integers(0, 3), st.sampled_from(["a", "b", ""]))
VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=5))


class DictMachine(RuleBasedStateMachine):
    """A Dict does what a dict does."""

    client: modal.Client

    @initialize()
    def make(self) -> None:
        self.stack = contextlib.ExitStack()
        self.real = self.stack.enter_context(modal.Dict.ephemeral(client=self.client))
        self.model: dict[object, object] = {}

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    @rule(key=KEYS, value=VALUES)
    def put(self, key: object, value: object) -> None:
        self.real[key] = value
        self.model[key] = value

    @rule(key=KEYS, value=VALUES)
    def put_if_missing(self, key: object, value: object) -> None:
        assert self.real.put(key, value, skip_if_exists=True) == (key not in self.model)
        self.model.setdefault(key, value)

    @rule(entries=st.dictionaries(KEYS, VALUES))
    def update(self, entries: dict[object, object]) -> None:
        self.real.update(entries)
        self.model.update(entries)

    @rule(key=KEYS)
    def get(self, key: object) -> None:
        assert self.real.get(key, "nothing") == self.model.get(key, "nothing")

    @rule(key=KEYS)
    def pop(self, key: object) -> None:
        if key in self.model:
            assert self.real.pop(key) == self.model.pop(key)
        else:
            with pytest.raises(KeyError):
                self.real.pop(key)
            assert self.real.pop(key, 5) == 5

    @rule(key=KEYS)
    def contains(self, key: object) -> None:
        assert (key in self.real) == (key in self.model)

    @rule()
    def clear(self) -> None:
        self.real.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        if hasattr(self, "real"):
            assert self.real.len() == len(self.model)
            assert dict(self.real.items()) == self.model

    @rule()
    def parts(self) -> None:
        assert set(self.real.keys()) == set(self.model)
        assert sorted(map(repr, self.real.values())) == sorted(map(repr, self.model.values()))


@covers(
    "DictGetOrCreate",
    "DictUpdate",
    "DictGet",
    "DictPop",
    "DictContains",
    "DictClear",
    "DictLen",
    "DictContents",
)
def test_a_dict_does_what_a_dict_does(client: modal.Client) -> None:
    DictMachine.client = client
    DictMachine.TestCase.settings = hypothesis_settings(
        max_examples=12, stateful_step_count=15, deadline=None
    )
    DictMachine.TestCase().runTest()


@covers("DictGetOrCreate", "DictGetById")
def test_a_name_finds_the_same_dict(client: modal.Client, name: str) -> None:
    modal.Dict.from_name(name, create_if_missing=True, client=client)["key"] = "value"
    found = modal.Dict.from_name(name, client=client)
    assert found["key"] == "value"
    assert modal.Dict.from_id(found.object_id, client=client)["key"] == "value"


def test_environments_are_apart(client: modal.Client, name: str) -> None:
    modal.Dict.from_name(name, create_if_missing=True, client=client)["key"] = "value"
    other = modal.Dict.from_name(name, create_if_missing=True, environment_name="other", client=client)
    assert other.len() == 0
    assert [found.name for found in modal.Dict.objects.list(environment_name="other", client=client)] == [
        name
    ]


def test_what_is_not_there_is_not_found(client: modal.Client, name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        modal.Dict.from_name(name, client=client).hydrate()
    with pytest.raises(NotFoundError):
        modal.Dict.from_id("di-0000000000000000000000", client=client).hydrate()
    with pytest.raises(NotFoundError):
        modal.Dict.objects.delete(name, client=client)
    modal.Dict.objects.delete(name, allow_missing=True, client=client)


def test_create_fails_if_it_exists(client: modal.Client, name: str) -> None:
    modal.Dict.objects.create(name, client=client)
    with pytest.raises(AlreadyExistsError, match=name):
        modal.Dict.objects.create(name, client=client)
    modal.Dict.objects.create(name, allow_existing=True, client=client)


@covers("DictDelete")
def test_a_deleted_dict_is_gone(client: modal.Client, name: str) -> None:
    handle = modal.Dict.from_name(name, create_if_missing=True, client=client)
    handle["key"] = 1
    modal.Dict.objects.delete(name, client=client)
    with pytest.raises(NotFoundError):
        handle.get("key")
    assert modal.Dict.from_name(name, create_if_missing=True, client=client).len() == 0


@covers("DictList")
def test_lists_come_in_pages_newest_first(client: modal.Client) -> None:
    names = [f"page-{number}" for number in range(105)]
    for name in names:
        modal.Dict.objects.create(name, environment_name="pages", client=client)
    found = modal.Dict.objects.list(environment_name="pages", client=client)
    assert [one.name for one in found] == names[::-1]
    few = modal.Dict.objects.list(environment_name="pages", max_objects=7, client=client)
    assert [one.name for one in few] == names[:-8:-1]


def test_an_entry_that_is_too_large_is_refused(client: modal.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicts, "LARGEST", 1000)
    with modal.Dict.ephemeral(client=client) as handle:
        with pytest.raises(RequestSizeError):
            handle["key"] = bytes(2000)
        assert handle.len() == 0


def test_bad_names_are_refused_by_the_server_too(client: modal.Client, plane: Plane) -> None:
    from grpclib import GRPCError

    for bad in ("a b", "a/b", "x" * 65, "..\n", "ap-" + "a" * 22, "\u00e4"):
        with pytest.raises(GRPCError, match="Invalid Dict name"):
            plane.call(lambda bad=bad: plane.dicts._registry.check_name(bad))  # type: ignore[misc]
    with pytest.raises(InvalidError):
        modal.Dict.from_name("a/b", client=client)


def test_an_ephemeral_dict_ends_without_heartbeats(tmp_path: Path) -> None:
    now = [1000.0]
    with serving(Settings(work=tmp_path / "work", state=tmp_path / "state")) as plane:
        with connected(plane.environ) as client, modal.Dict.ephemeral(client=client) as handle:
            handle["key"] = 1
            registry = plane.dicts._registry
            registry._clock = lambda: now[0]
            plane.call(lambda: registry.heartbeat(handle.object_id))
            now[0] += 800
            plane.call(registry.expire)
            assert handle["key"] == 1
            plane.call(lambda: registry.heartbeat(handle.object_id))
            now[0] += 800
            plane.call(registry.expire)
            assert handle["key"] == 1
            now[0] += 101
            plane.call(registry.expire)
            with pytest.raises(NotFoundError):
                handle.get("key")
        assert plane.call(lambda: list(plane.store.items("dict-entry"))) == []


def test_dicts_survive_a_restart(tmp_path: Path) -> None:
    random.seed(1)
    model: dict[object, object] = {number: random.randbytes(number) for number in range(30)}
    for _ in range(3):
        work = tmp_path / f"work{random.random()}"
        settings = Settings(work=work, state=tmp_path / "state")
        with serving(settings) as plane, connected(plane.environ) as client:
            handle = modal.Dict.from_name("kept", create_if_missing=True, client=client)
            if handle.len():
                assert dict(handle.items()) == model
            else:
                handle.update(model)
            first = next(iter(model))
            assert handle.pop(first) == model.pop(first)
            handle["again"] = model["again"] = random.random()
