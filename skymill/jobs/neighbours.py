"""Looking at a frame of a block beside those before and after it, few in memory at a time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

from skymill.errors import ScienceFailure

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Window"]

T = TypeVar("T")


class Window(Generic[T]):
    """Values of a sequence that are made once each and shared by neighbouring places.

    A value lives until its own place and both neighbours are done. Places worked on in
    order by ``n`` threads keep at most ``2 n + 1`` values.

    Parameters
    ----------
    make : callable
        Makes the value of a place; must not ask for other places.
    size : int
        Number of places.
    """

    def __init__(self, make: Callable[[int], T], size: int) -> None:
        self._make = make
        self._size = size
        self._lock = threading.Lock()
        self._values: dict[int, Future[T]] = {}
        self._done: set[int] = set()

    def get(self, place: int) -> T:
        """Return the value of a place; what its making raised is raised again."""
        with self._lock:
            mine = place not in self._values
            if mine:
                self._values[place] = Future()
            future = self._values[place]
        if mine:
            try:
                future.set_result(self._make(place))
            except BaseException as error:  # handed on to all who wait
                future.set_exception(error)
        return future.result()

    def around(self, place: int) -> list[T]:
        """Return the values before and after a place that exist and can be made."""
        found = []
        for other in (place - 1, place + 1):
            if 0 <= other < self._size:
                try:
                    found.append(self.get(other))
                except ScienceFailure:
                    continue
        return found

    def done(self, place: int) -> None:
        """Say that a place needs no value any more, neither its own nor a neighbour's."""
        with self._lock:
            self._done.add(place)
            for other in (place - 1, place, place + 1):
                users = (other - 1, other, other + 1)
                if all(u in self._done for u in users if 0 <= u < self._size):
                    self._values.pop(other, None)

    @property
    def held(self) -> int:
        """Number of values in memory."""
        with self._lock:
            return len(self._values)
