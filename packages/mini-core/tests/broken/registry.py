"""What is known of each broken apparatus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from mini import LocalApparatus
from mini.conformance.clauses import clause_of

__all__ = ["BROKEN", "Broken", "breaks"]

Class = TypeVar("Class", bound=type[LocalApparatus])


@dataclass(frozen=True)
class Broken:
    """An apparatus that is broken, and how that comes out.

    Attributes:
        apparatus: its class.
        test: the kit's test that has to fail, with the parameter that is enough to see it.
        says: a regular expression, found in what that test then says.
        workers: of the local backend that it otherwise is.
        patience: seconds, for a test that finds out by waiting in vain.
        timeout: seconds after which the test is given up, if that is how it fails.
    """

    apparatus: type[LocalApparatus]
    test: str
    says: str
    workers: Literal["process", "thread"]
    patience: float = 20
    timeout: float | None = None

    @property
    def name(self) -> str:
        return self.apparatus.__name__

    @property
    def clause(self) -> str:
        clause = clause_of(self.test.partition("[")[0])
        assert clause is not None, self.test
        return clause


BROKEN: list[Broken] = []


def breaks(
    test: str,
    *,
    says: str,
    workers: Literal["process", "thread"] = "thread",
    patience: float = 20,
    timeout: float | None = None,
) -> Callable[[Class], Class]:
    """Put an apparatus on the list; see `Broken`. Threads do where the defect does not need processes."""

    def add(apparatus: Class) -> Class:
        BROKEN.append(Broken(apparatus, test, says, workers, patience, timeout))
        return apparatus

    return add
