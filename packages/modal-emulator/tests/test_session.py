"""Tokens and environments: what a client is asked for, and how it gets one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import MODAL, PYTHON, outside, read_until, run, started
from covers import covers
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_emulator import Emulator
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub
from protocol import ask, connected, metadata


@pytest.fixture
def own() -> Iterator[Emulator]:
    """A server for one test."""
    with Emulator() as emulator:
        yield emulator


class TestToken:
    @covers("ClientHello", "TokenInfoGet")
    def test_the_servers_own_is_accepted(self, modal_emulator: Emulator) -> None:
        done = run(*MODAL, "token", "info", env=modal_emulator.environ)
        assert done.returncode == 0, done
        assert f"Token: {modal_emulator.token[0]}" in done.stdout
        assert "Workspace: emulator" in done.stdout

    @pytest.mark.parametrize("name", ["MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"])
    def test_another_one_is_an_auth_error(self, modal_emulator: Emulator, name: str) -> None:
        program = """if True:
            import modal
            try:
                modal.Client.from_env().hello()
            except modal.exception.AuthError as exc:
                print("AuthError:", exc)
        """
        done = run(*PYTHON, "-c", program, env={**modal_emulator.environ, name: "ak-other"})
        assert done.stdout.startswith("AuthError: the token is missing or unknown here"), done

    def test_without_one_nothing_but_the_way_to_one_is_open(self, modal_emulator: Emulator) -> None:
        async def talk() -> None:
            async with connected(modal_emulator) as stub:
                with pytest.raises(GRPCError) as info:
                    await stub.ClientHello(Empty())
                assert info.value.status is Status.UNAUTHENTICATED
                with pytest.raises(GRPCError) as info:
                    await stub.TokenInfoGet(
                        api_pb2.TokenInfoGetRequest(), metadata={"x-modal-token-id": "ak-x"}
                    )
                assert info.value.status is Status.UNAUTHENTICATED
                assert (await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest())).web_url

        asyncio.run(talk())

    @covers("WorkspaceNameLookup")
    def test_token_set_finds_the_workspace_and_stores_it(self, own: Emulator, tmp_path: Path) -> None:
        token_id, secret = own.token
        env = {**own.environ, "MODAL_CONFIG_PATH": str(tmp_path / "modal.toml")}
        done = run(*MODAL, "token", "set", f"--token-id={token_id}", f"--token-secret={secret}", env=env)
        assert done.returncode == 0, done
        assert f'[emulator]\ntoken_id = "{token_id}"' in (tmp_path / "modal.toml").read_text()

    @covers("AuthTokenGet")
    def test_an_auth_token_says_when_it_expires(self, modal_emulator: Emulator) -> None:
        answer = ask(modal_emulator, "AuthTokenGet", api_pb2.AuthTokenGetRequest())
        # Read as the client reads it.
        program = """if True:
            import sys, time
            from modal._utils.auth_token_manager import _AuthTokenManager
            print(_AuthTokenManager._decode_jwt(sys.argv[1])["exp"] - time.time())
        """
        done = run(*PYTHON, "-c", program, answer.token)
        assert done.returncode == 0, done
        assert 3000 < float(done.stdout) < 4000


class Browser:
    """A person with a browser, who reads the page that `modal token new` names, and decides."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.page = urllib.request.urlopen(url, timeout=30).read().decode()

    def approve(self, **form: str) -> int:
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', self.page)) | form
        data = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
        try:
            with urllib.request.urlopen(self.url, data, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code


class TestTokenFlow:
    @covers("TokenFlowCreate", "TokenFlowWait", "WorkspaceNameLookup")
    def test_a_person_says_yes_and_the_program_has_a_token(self, own: Emulator, tmp_path: Path) -> None:
        config = tmp_path / "modal.toml"
        env = outside(
            MODAL_SERVER_URL=own.url, MODAL_CONFIG_PATH=str(config), BROWSER="no-such", PYTHONUNBUFFERED="1"
        )
        with started(*MODAL, "token", "new", env=env) as process:
            text = read_until(process.stdout, lambda line: "Enter this code" in line)
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+/token-flow/\S+", text)
            (code,) = re.findall(r"Enter this code: (\w+)", text)
            browser = Browser(url)
            assert code in browser.page
            assert browser.approve(code="OTHER") == 403
            assert browser.approve() == 200
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, (out, err)
        assert "Token is connected to the emulator workspace" in out
        done = run(*MODAL, "token", "info", env=outside(MODAL_CONFIG_PATH=str(config)))
        assert done.returncode == 0, done
        (token_id,) = re.findall(r'token_id = "(ak-\w+)"', config.read_text())
        assert f"Token: {token_id}" in done.stdout
        assert token_id != own.token[0]

    @covers("TokenFlowWait")
    def test_a_wait_ends_and_a_secret_is_needed(self, modal_emulator: Emulator) -> None:
        async def talk() -> None:
            async with connected(modal_emulator) as stub:
                flow = await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest())
                wait = api_pb2.TokenFlowWaitRequest(
                    token_flow_id=flow.token_flow_id, wait_secret=flow.wait_secret, timeout=0.05
                )
                answer = await stub.TokenFlowWait(wait, timeout=30)
                assert (answer.timeout, answer.token_id) == (True, "")
                for wrong in (
                    api_pb2.TokenFlowWaitRequest(wait_secret="ws-x"),
                    api_pb2.TokenFlowWaitRequest(wait_secret="ä"),
                    api_pb2.TokenFlowWaitRequest(token_flow_id="tf-x"),
                ):
                    request = api_pb2.TokenFlowWaitRequest()
                    request.CopyFrom(wait)
                    request.MergeFrom(wrong)
                    with pytest.raises(GRPCError) as info:
                        await stub.TokenFlowWait(request, timeout=30)
                    assert info.value.status is Status.NOT_FOUND

        asyncio.run(talk())

    @covers("TokenFlowWait")
    def test_of_those_who_wait_one_gets_the_token(self, modal_emulator: Emulator) -> None:
        async def talk() -> list[str]:
            async with connected(modal_emulator) as stub:
                flow = await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest())
                wait = api_pb2.TokenFlowWaitRequest(
                    token_flow_id=flow.token_flow_id, wait_secret=flow.wait_secret, timeout=30
                )
                waiting = [asyncio.create_task(stub.TokenFlowWait(wait, timeout=60)) for _ in range(3)]
                browser = await asyncio.to_thread(Browser, flow.web_url)
                assert await asyncio.to_thread(browser.approve) == 200
                answers = await asyncio.gather(*waiting, return_exceptions=True)
                assert await asyncio.to_thread(browser.approve) == 404
                return [
                    answer.token_id for answer in answers if isinstance(answer, api_pb2.TokenFlowWaitResponse)
                ]

        (token_id,) = asyncio.run(talk())
        assert token_id.startswith("ak-")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_another_user_of_the_machine_cannot_say_yes(self, modal_emulator: Emulator) -> None:
        async def begin() -> str:
            async with connected(modal_emulator) as stub:
                return (await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest())).web_url

        url = asyncio.run(begin())
        program = f"""if True:
            import os, urllib.error, urllib.request
            os.setuid(65534)
            for data in None, b"code=X":
                try:
                    urllib.request.urlopen({url!r}, data)
                except urllib.error.HTTPError as exc:
                    print(exc.code)
        """
        # A virtual environment may be where only root can go.
        done = subprocess.run(
            [shutil.which("python3", path="/usr/bin:/usr/local/bin") or PYTHON[0], "-c", program],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["403", "403"], done
        assert Browser(url).approve() == 200

    @covers("TokenFlowCreate", "TokenDelete")
    def test_a_token_ends_when_it_was_to_or_is_deleted(self, own: Emulator) -> None:
        async def mint(stub: ModalClientStub, seconds: int) -> dict[str, str]:
            flow = await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest(expires_in_seconds=seconds))
            assert await asyncio.to_thread(Browser(flow.web_url).approve) == 200
            token = await stub.TokenFlowWait(
                api_pb2.TokenFlowWaitRequest(
                    token_flow_id=flow.token_flow_id, wait_secret=flow.wait_secret, timeout=30
                )
            )
            return {"x-modal-token-id": token.token_id, "x-modal-token-secret": token.token_secret}

        async def hello_for_ever(stub: ModalClientStub, token: dict[str, str]) -> None:
            while True:
                await stub.ClientHello(Empty(), metadata=token)

        async def talk() -> None:
            async with connected(own) as stub:
                short, long = await mint(stub, 1), await mint(stub, 1000)
                info = await stub.TokenInfoGet(api_pb2.TokenInfoGetRequest(), metadata=long)
                assert 900 < info.expires_at.seconds - time.time() < 1100
                with pytest.raises(GRPCError) as info_:
                    await asyncio.wait_for(hello_for_ever(stub, short), 30)
                assert info_.value.status is Status.UNAUTHENTICATED
                delete = api_pb2.TokenDeleteRequest(token_id=long["x-modal-token-id"])
                await stub.TokenDelete(delete, metadata=metadata(own))
                with pytest.raises(GRPCError) as info_:
                    await stub.ClientHello(Empty(), metadata=long)
                assert info_.value.status is Status.UNAUTHENTICATED
                with pytest.raises(GRPCError) as info_:
                    await stub.TokenDelete(delete, metadata=metadata(own))
                assert info_.value.status is Status.NOT_FOUND

        asyncio.run(talk())

    @covers("TokenFlowCreate", "TokenFlowWait")
    def test_a_token_survives_the_server_where_there_is_a_state(self, tmp_path: Path) -> None:
        async def mint(emulator: Emulator) -> dict[str, str]:
            async with connected(emulator) as stub:
                flow = await stub.TokenFlowCreate(api_pb2.TokenFlowCreateRequest())
                assert await asyncio.to_thread(Browser(flow.web_url).approve) == 200
                token = await stub.TokenFlowWait(
                    api_pb2.TokenFlowWaitRequest(
                        token_flow_id=flow.token_flow_id, wait_secret=flow.wait_secret, timeout=30
                    )
                )
            return {"MODAL_TOKEN_ID": token.token_id, "MODAL_TOKEN_SECRET": token.token_secret}

        with Emulator(state=tmp_path) as emulator:
            token = asyncio.run(mint(emulator))
        assert all(
            token["MODAL_TOKEN_SECRET"].encode() not in path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file()
        )
        with Emulator(state=tmp_path) as emulator:
            done = run(*MODAL, "token", "info", env={**emulator.environ, **token})
            assert f"Token: {token['MODAL_TOKEN_ID']}" in done.stdout, done


class TestEnvironment:
    @covers("EnvironmentList", "EnvironmentCreate", "EnvironmentDelete", "EnvironmentGetOrCreate")
    def test_they_are_made_listed_and_deleted(self, tmp_path: Path) -> None:
        program = """if True:
            import modal
            Environment = modal.environments.Environment
            Environment.objects.create("dev")
            print([each.name for each in Environment.objects.list()])
            print(Environment.from_context().hydrate().name, Environment.from_name("dev").hydrate().name)
            for act in [
                lambda: Environment.objects.create("dev"),
                lambda: Environment.from_name("nope").hydrate(),
                lambda: Environment.objects.delete("main"),
                lambda: Environment.objects.create("x", restricted=True),
            ]:
                try:
                    act()
                except Exception as exc:
                    print(type(exc).__name__, exc)
        """
        with Emulator(state=tmp_path) as emulator:
            env = {**emulator.environ}
            del env["MODAL_ENVIRONMENT"]
            done = run(*PYTHON, "-c", program, env=env)
            assert done.returncode == 0, done
            lines = done.stdout.splitlines()
            assert lines[:2] == ["['main', 'dev']", "main dev"]
            assert lines[2].startswith("AlreadyExistsError there is an environment 'dev'")
            assert lines[3].startswith("NotFoundError there is no environment 'nope'")
            assert "'main' is the default environment" in lines[4]
            assert "does not honour EnvironmentCreate.is_managed" in lines[5]
        with Emulator(state=tmp_path) as emulator:
            assert [each.name for each in ask(emulator, "EnvironmentList", Empty()).items] == ["main", "dev"]
            assert run(*MODAL, "environment", "delete", "-y", "dev", env=emulator.environ).returncode == 0
            assert [each.name for each in ask(emulator, "EnvironmentList", Empty()).items] == ["main"]

    @covers("EnvironmentDelete")
    def test_what_is_in_one_goes_with_it(self, modal_emulator: Emulator) -> None:
        program = """if True:
            import modal
            Environment = modal.environments.Environment
            kinds = [modal.Dict, modal.Queue, modal.Volume]
            for environment in "main", "short":
                if environment != "main":
                    Environment.objects.create(environment)
                for kind in kinds:
                    kind.from_name("one", environment_name=environment, create_if_missing=True).hydrate()
            modal.Secret.objects.create("one", {"A": "1"}, environment_name="short")
            with modal.enable_output():
                modal.App("one").deploy(environment_name="short")
            Environment.objects.delete("short")
            Environment.objects.create("short")
            for kind in [*kinds, modal.Secret, modal.App]:
                look_up = kind.lookup if kind is modal.App else kind.from_name
                try:
                    found = look_up("one", environment_name="short")
                    if kind is not modal.App:
                        found.hydrate()
                    print(kind.__name__, "is there")
                except modal.exception.NotFoundError:
                    print(kind.__name__, "is gone")
            for kind in kinds:
                kind.from_name("one").hydrate()
        """
        done = run(*PYTHON, "-c", program, env=modal_emulator.environ)
        assert done.returncode == 0, done
        assert done.stdout.split("\n")[-6:-1] == [
            f"{kind} is gone" for kind in ("Dict", "Queue", "Volume", "Secret", "App")
        ]

    @pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 100, "ä"])
    def test_a_name_that_is_none_is_refused(self, modal_emulator: Emulator, name: str) -> None:
        with pytest.raises(GRPCError) as info:
            ask(modal_emulator, "EnvironmentCreate", api_pb2.EnvironmentCreateRequest(name=name))
        assert info.value.status is Status.INVALID_ARGUMENT
