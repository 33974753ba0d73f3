"""A `modal.Dict` of texts by text, asked about many entries at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .asking import Missing, ask, gather, in_client, patiently, this_client

if TYPE_CHECKING:
    import modal

__all__ = ["Texts"]


class Texts:
    """The Dict called `name`. It is there once something was put with `create`; until then it reads as empty.

    Raises AuthError and BackendUnavailable, as `mini_modal.asking.ask` does; if it is `patient`, only after a minute.
    """

    def __init__(self, name: str, *, patient: bool = False) -> None:
        self.name = name
        self._patient = patient
        self._dict: modal.Dict | None = None

    def all(self) -> dict[str, str]:
        """All entries: one answer, however many there are."""
        return self._ask(_all) or {}

    def get(self, keys: Sequence[str]) -> list[str | None] | None:
        """The entries of some keys; None if there is no such Dict (any more)."""
        return self._ask(_get, list(keys)) if keys else []

    def put(self, entries: Mapping[str, str], *, create: bool = False) -> bool:
        """Set entries, whatever they were; False if there is no such Dict."""
        return self._ask(_put, dict(entries), create=create) is not None

    def add(self, entries: Iterable[tuple[str, str]]) -> list[bool] | None:
        """Set each entry unless there is one; say for each whether it is ours. None if there is no such Dict.

        No two writers put the same text under a key.
        """
        answers: list[bool] | None = self._ask(_add, list(entries))
        return answers

    def pop(self, key: str) -> None:
        """Forget an entry, if it is there."""
        self._ask(_pop, key)

    def delete(self) -> None:
        """Forget all of it."""
        import modal

        self._dict = None
        ask(lambda: modal.Dict.objects.delete(self.name, allow_missing=True, client=this_client()))

    def _ask(self, work: Any, *args: Any, create: bool = False) -> Any:
        def question() -> Any:
            if self._dict is None:
                import modal

                found = modal.Dict.from_name(self.name, create_if_missing=create, client=this_client())
                found.hydrate()
                self._dict = found
            return in_client(work)(self._dict, *args)

        for _ in range(2):
            known = self._dict is not None
            try:
                return patiently(lambda: ask(question)) if self._patient else ask(question)
            except Missing:
                self._dict = None
                if not known:
                    break
                # The one that we knew was deleted; there may be another by now.
        return None


# In the thread of Modal's client.


async def _all(entries: Any) -> dict[str, str]:
    return {key: value async for key, value in entries.items()}


async def _get(entries: Any, keys: list[str]) -> list[str | None]:
    return await gather(entries.get(key) for key in keys)


async def _put(entries: Any, new: dict[str, str]) -> bool:
    await entries.update(new)
    return True


async def _add(entries: Any, new: list[tuple[str, str]]) -> list[bool]:
    async def one(key: str, value: str) -> bool:
        if await entries.put(key, value, skip_if_exists=True):
            return True
        # If Modal's answer was lost the client has asked again, and what was in the way is our own.
        return bool(await entries.get(key) == value)

    return await gather(one(key, value) for key, value in new)


async def _pop(entries: Any, key: str) -> None:
    await entries.pop(key, None)
