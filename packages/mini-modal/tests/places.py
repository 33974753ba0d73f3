"""Where the tests' calls run: on an emulator, or, with `MINI_MODAL_LIVE=1`, on Modal itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import surroundings
from mini_modal import ModalApparatus
from modal_emulator import Emulator

__all__ = ["Place", "live"]


@dataclass(frozen=True)
class Place:
    """Something that Modal's client can connect to.

    Attributes:
        variables: those that make it do so; None for those that must not be set.
    """

    variables: Mapping[str, str | None]

    @classmethod
    def of(cls, emulator: Emulator) -> Place:
        return cls(emulator.variables)

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of a program that is to use it."""
        merged = {**os.environ, **self.variables}
        return {name: value for name, value in merged.items() if value is not None}

    @contextmanager
    def apparatus(self, name: str, folder: Path) -> Iterator[ModalApparatus]:
        """An apparatus there, in a folder that is no project: else all that this one locks would be installed."""
        import modal

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for variable, value in self.variables.items():
                if value is None:
                    patch.delenv(variable, raising=False)
                else:
                    patch.setenv(variable, value)
            with ModalApparatus(name, max_workers=2).w(progress=False) as app:
                yield app
            modal.Volume.objects.delete(f"mini-{name}", allow_missing=True)


def live() -> Place:
    """Modal itself, as the environment has it."""
    from modal.config import config

    if not (config["token_id"] and config["token_secret"]):
        pytest.fail("MINI_MODAL_LIVE is set, and there is no token for Modal here: run `mini auth modal`")
    assert surroundings.LIVE
    return Place({})
