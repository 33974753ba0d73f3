"""Secrets, through the real client."""

from __future__ import annotations

import logging
from pathlib import Path

import modal
import pytest
from covers import covers
from grpclib import GRPCError
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError
from modal_emulator.settings import Settings
from modal_proto import api_pb2
from storage_plane import Plane, connected, serving


@covers("SecretGetOrCreate", "SecretGetInfo")
def test_secrets_by_name(client: modal.Client, plane: Plane, name: str) -> None:
    modal.Secret.objects.create(name, {"A": "1", "B": "two"}, client=client)
    found = modal.Secret.from_name(name, required_keys=["A"], client=client).hydrate()
    other = modal.Secret.from_name(name, client=client).hydrate()
    assert other.object_id == found.object_id
    assert plane.call(lambda: plane.secrets.env([found.object_id])) == {"A": "1", "B": "two"}
    with pytest.raises(AlreadyExistsError):
        modal.Secret.objects.create(name, {}, client=client)
    modal.Secret.objects.create(name, {"C": ""}, allow_existing=True, client=client)
    if "last_used_at" in api_pb2.SecretMetadata.DESCRIPTOR.fields_by_name:  # a client since 1.6.4
        assert found.info(refresh=True).name == name
        assert found._get_keys(refresh=True) == {"A", "B"}
        assert found.info().last_used is not None


def test_missing_keys_are_named(client: modal.Client, name: str) -> None:
    modal.Secret.objects.create(name, {"A": "secret-value"}, client=client)
    with pytest.raises(Exception, match="B, C") as caught:
        modal.Secret.from_name(name, required_keys=["A", "B", "C"], client=client).hydrate()
    assert "secret-value" not in str(caught.value)
    with pytest.raises(NotFoundError, match="missing"):
        modal.Secret.from_name("missing", client=client).hydrate()


@covers("SecretUpdate")
def test_an_update_adds_and_overwrites(client: modal.Client, plane: Plane, name: str) -> None:
    modal.Secret.objects.create(name, {"A": "1", "B": "2"}, client=client)
    found = modal.Secret.from_name(name, client=client).hydrate()
    found.update({"B": "3", "C": "4"})
    assert plane.call(lambda: plane.secrets.env([found.object_id])) == {"A": "1", "B": "3", "C": "4"}


def test_overwriting_keeps_the_id(client: modal.Client, plane: Plane, name: str) -> None:
    modal.Secret.objects.create(name, {"A": "1"}, client=client)
    found = modal.Secret.from_name(name, client=client).hydrate()
    again = modal.Secret._create_deployed(name, {"B": "2"}, client=client, overwrite=True)
    assert again == found.object_id
    assert plane.call(lambda: plane.secrets.env([again])) == {"B": "2"}


@covers("SecretGetOrCreate")
def test_secrets_without_a_name(client: modal.Client, plane: Plane, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_FILE='of a file'\nEMPTY=\n")
    one = modal.Secret.from_dict({"A": "1", "FROM_FILE": "no", "NOT": None}).hydrate(client)
    two = modal.Secret.from_dotenv(tmp_path, client=client).hydrate()
    env = plane.call(lambda: plane.secrets.env([one.object_id, two.object_id]))
    assert env == {"A": "1", "FROM_FILE": "of a file", "EMPTY": ""}
    assert modal.Secret._from_id(two.object_id, client=client).hydrate()._get_keys() == {"FROM_FILE", "EMPTY"}


@covers("SecretDelete")
def test_deleted_secrets_are_gone_from_disk(client: modal.Client, plane: Plane, name: str) -> None:
    modal.Secret.objects.create(name, {"A": "1"}, client=client)
    found = modal.Secret.from_name(name, client=client).hydrate()
    file = plane.settings.data / "secrets" / found.object_id
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    modal.Secret.objects.delete(name, client=client)
    assert not file.exists()
    with pytest.raises(GRPCError):
        plane.call(lambda: plane.secrets.env([found.object_id]))


def test_values_are_in_no_log_and_no_repr(
    client: modal.Client, plane: Plane, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        modal.Secret.objects.create(name, {"A": "hunter2"}, client=client)
        found = modal.Secret.from_name(name, client=client).hydrate()
        env = plane.call(lambda: plane.secrets.env([found.object_id]))
    assert env["A"] == "hunter2"
    assert "hunter2" not in repr(env) + repr(plane.secrets.__dict__) + caplog.text


@pytest.mark.parametrize("bad", [{"A=B": "1"}, {"A": "a\0b"}, {"": "1"}, {"A": "x" * 70_000}])
def test_what_cannot_be_a_variable_is_refused(client: modal.Client, name: str, bad: dict[str, str]) -> None:
    with pytest.raises(InvalidError):
        modal.Secret.objects.create("bad", bad, client=client)
    with pytest.raises(NotFoundError):
        modal.Secret.from_name("bad", client=client).hydrate()


def test_secrets_survive_a_restart(tmp_path: Path) -> None:
    for number in range(2):
        settings = Settings(work=tmp_path / f"work{number}", state=tmp_path / "state")
        with serving(settings) as plane, connected(plane.environ) as client:
            modal.Secret.objects.create("kept", {"A": f"{number}"}, allow_existing=True, client=client)
            found = modal.Secret.from_name("kept", client=client).hydrate()
            assert plane.call(lambda: plane.secrets.env([found.object_id])) == {"A": "0"}  # noqa: B023
