"""Who calls, with which token, and in which environment."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..ids import new_id
from ..pages import Flow, Pages
from ..rpc import Caller, fail, rpc
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["DEFAULT_ENVIRONMENT", "IMAGE_BUILDER", "SessionService"]

DEFAULT_ENVIRONMENT = "main"
IMAGE_BUILDER = "2025.06"
"""The version of Modal's image builder whose recipes the image service knows."""
AUTH_TOKEN_SECONDS = 3600.0
WAIT_AT_MOST = 60.0  # seconds that one TokenFlowWait takes; a client that wants to wait longer asks again


@dataclass(slots=True)
class Token:
    """A token that is valid here.

    Attributes:
        digest: SHA-256 of its secret, in hex: what is kept cannot be presented.
        expires: when it ends, in seconds since the epoch; None for never.
    """

    id: str
    digest: str
    created: float
    expires: float | None = None


@dataclass(slots=True)
class Environment:
    """A name space for apps and objects."""

    id: str
    name: str
    created: float


class SessionService(Service):
    """Tokens, environments, and what a client asks before anything else.

    The server's own token comes from its settings. Others are made by the token flow (`modal token new`): a page on
    this machine, where somebody of the same user as the server says yes.
    """

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self._tokens: dict[str, Token] = {}
        self._environments: dict[str, Environment] = {}
        self._key = secrets.token_bytes(32)
        self._pages = Pages(plane.settings.workspace)

    async def start(self) -> None:
        settings = self.plane.settings
        own = Token(settings.token_id, digest(settings.token_secret), time.time())
        for _, row in self.store.items("token"):
            token = Token(**json.loads(row))
            self._tokens[token.id] = token
        self._tokens[own.id] = own
        for _, row in self.store.items("environment"):
            environment = Environment(**json.loads(row))
            self._environments[environment.name] = environment
        if DEFAULT_ENVIRONMENT not in self._environments:
            self._create(DEFAULT_ENVIRONMENT)
        await self._pages.open()

    async def stop(self) -> None:
        await self._pages.close()

    # For the other services

    def accepts(self, token_id: str, token_secret: str) -> bool:
        """Whether this is a token of ours. How long it takes says nothing about the secret."""
        token = self._tokens.get(token_id)
        same = hmac.compare_digest(token.digest if token else digest(""), digest(token_secret))
        return token is not None and same and (token.expires is None or time.time() < token.expires)

    @property
    def web_url(self) -> str:
        """Where the pages for people are: an app's is /apps/ and its id below it."""
        return self._pages.url

    def environment(self, name: str) -> str:
        """The name of an environment, where "" is the default one's. NOT_FOUND if there is none of this name."""
        name = name or DEFAULT_ENVIRONMENT
        if name not in self._environments:
            fail(
                Status.NOT_FOUND,
                f"there is no environment {name!r}: `modal environment create {name}` makes it",
            )
        return name

    def name_of(self, environment_id: str) -> str:
        """The name of the environment with an id. NOT_FOUND if there is none."""
        names = [each.name for each in self._environments.values() if each.id == environment_id]
        if not names:
            fail(Status.NOT_FOUND, f"there is no environment with the id {environment_id!r}")
        return names[0]

    # Hello

    @rpc()
    async def client_hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER)

    @rpc()
    async def workspace_name_lookup(
        self, request: Empty, caller: Caller
    ) -> api_pb2.WorkspaceNameLookupResponse:
        name = self.plane.settings.workspace
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=name, username=name)

    # Tokens

    @rpc()
    async def auth_token_get(
        self, request: api_pb2.AuthTokenGetRequest, caller: Caller
    ) -> api_pb2.AuthTokenGetResponse:
        # The client reads no more of it than when it expires. Nothing here asks for it: there is no input plane.
        parts = [{"alg": "HS256", "typ": "JWT"}, {"exp": int(time.time() + AUTH_TOKEN_SECONDS)}]
        signed = b".".join(b64(json.dumps(part).encode()) for part in parts)
        signature = b64(hmac.digest(self._key, signed, "sha256"))
        return api_pb2.AuthTokenGetResponse(token=(signed + b"." + signature).decode())

    @rpc()
    async def token_info_get(
        self, request: api_pb2.TokenInfoGetRequest, caller: Caller
    ) -> api_pb2.TokenInfoGetResponse:
        name = self.plane.settings.workspace
        answer = api_pb2.TokenInfoGetResponse(
            workspace_id="ac-emulator",
            workspace_name=name,
            user_identity=api_pb2.UserIdentity(user_id="us-emulator", username=name),
        )
        token = self._tokens.get(caller.metadata.get("x-modal-token-id", ""))
        if token is not None:  # what runs in a container has none
            answer.token_id = token.id
            answer.created_at.seconds = int(token.created)
            if token.expires is not None:
                answer.expires_at.seconds = int(token.expires)
        return answer

    @rpc(reads="token_id")
    async def token_delete(self, request: api_pb2.TokenDeleteRequest, caller: Caller) -> Empty:
        if self._tokens.pop(request.token_id, None) is None:
            fail(Status.NOT_FOUND, f"there is no token {request.token_id!r}")
        self.store.delete("token", request.token_id)
        return Empty()

    @rpc(reads="expires_in_seconds", moot="utm_source localhost_port next_url")
    async def token_flow_create(
        self, request: api_pb2.TokenFlowCreateRequest, caller: Caller
    ) -> api_pb2.TokenFlowCreateResponse:
        flow, url = self._pages.begin(request.expires_in_seconds)
        return api_pb2.TokenFlowCreateResponse(
            token_flow_id=flow.id, web_url=url, code=flow.code, wait_secret=flow.wait_secret
        )

    @rpc(reads="timeout token_flow_id wait_secret")
    async def token_flow_wait(
        self, request: api_pb2.TokenFlowWaitRequest, caller: Caller
    ) -> api_pb2.TokenFlowWaitResponse:
        flow = self._pages.flow(request.token_flow_id, request.wait_secret)
        if flow is None:
            fail(Status.NOT_FOUND, "this login is unknown or too old: start a new one with `modal token new`")
        try:
            async with asyncio.timeout(min(max(request.timeout, 0.0), WAIT_AT_MOST)):
                await flow.approved.wait()
        except TimeoutError:
            return api_pb2.TokenFlowWaitResponse(timeout=True)
        if not self._pages.end(flow):
            fail(Status.NOT_FOUND, "the token of this login has been handed out before")
        token, secret = self._mint(flow)
        return api_pb2.TokenFlowWaitResponse(
            token_id=token.id, token_secret=secret, workspace_username=self.plane.settings.workspace
        )

    def _mint(self, flow: Flow) -> tuple[Token, str]:
        now, secret = time.time(), new_id("as")
        expires = now + flow.expires_in if flow.expires_in else None
        token = Token(new_id("ak"), digest(secret), now, expires)
        self._tokens[token.id] = token
        self.store.put("token", token.id, json.dumps(asdict(token)).encode())
        return token, secret

    # Environments

    @rpc(reads="deployment_name object_creation_type")
    async def environment_get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = request.deployment_name or DEFAULT_ENVIRONMENT
        if name not in self._environments and request.object_creation_type in (
            api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
            api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
        ):
            self._create(name)
        elif request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            fail(Status.ALREADY_EXISTS, f"there is an environment {name!r}")
        environment = self._environments[self.environment(name)]
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment.id,
            metadata=api_pb2.EnvironmentMetadata(
                name=name,
                settings=api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER),
            ),
        )

    @rpc()
    async def environment_list(self, request: Empty, caller: Caller) -> api_pb2.EnvironmentListResponse:
        return api_pb2.EnvironmentListResponse(
            items=[
                api_pb2.EnvironmentListItem(
                    name=environment.name,
                    environment_id=environment.id,
                    created_at=environment.created,
                    default=environment.name == DEFAULT_ENVIRONMENT,
                )
                for environment in sorted(self._environments.values(), key=lambda each: each.created)
            ]
        )

    # There are no members here who could have roles: `is_managed` and the like are refused.
    @rpc(reads="name")
    async def environment_create(self, request: api_pb2.EnvironmentCreateRequest, caller: Caller) -> Empty:
        if request.name in self._environments:
            fail(Status.ALREADY_EXISTS, f"there is an environment {request.name!r}")
        self._create(request.name)
        return Empty()

    @rpc(reads="name")
    async def environment_delete(self, request: api_pb2.EnvironmentDeleteRequest, caller: Caller) -> Empty:
        name = self.environment(request.name)
        if name == DEFAULT_ENVIRONMENT:
            fail(Status.FAILED_PRECONDITION, f"{name!r} is the default environment, which has to be there")
        for service in self.plane.services:
            await service.drop_environment(name)
        del self._environments[name]
        self.store.delete("environment", name)
        return Empty()

    def _create(self, name: str) -> None:
        # The client's own rule, which a request off the wire may not have been held to.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            fail(Status.INVALID_ARGUMENT, f"not a name for an environment: {name[:80]!r}")
        environment = Environment(new_id("en"), name, time.time())
        self._environments[name] = environment
        self.store.put("environment", name, json.dumps(asdict(environment)).encode())


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
