"""Whose turn is when: names with a time each, given out to several workers, none to two at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Agenda:
    """`clock`: monotonic seconds. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due_s: dict[str, float] = {}
        self._busy: set[str] = set()
        self._stopped = False

    def add(self, name: str, in_s: float = 0.0) -> None:
        """At the latest so soon. What is under way is looked at again after it."""
        with self._changed:
            due_s = self._clock() + in_s
            self._due_s[name] = min(due_s, self._due_s.get(name, due_s))
            self._changed.notify()

    def take(self) -> str | None:
        """The next one, as soon as it is due; None when it is over."""
        with self._changed:
            while not self._stopped:
                waiting = {name: due_s for name, due_s in self._due_s.items() if name not in self._busy}
                name = min(waiting, key=lambda each: waiting[each], default=None)
                left_s = None if name is None else waiting[name] - self._clock()
                if name is not None and left_s is not None and left_s <= 0:
                    del self._due_s[name]
                    self._busy.add(name)
                    return name
                self._changed.wait(left_s)
            return None

    def done(self, name: str, again_s: float | None) -> None:
        """None: not before somebody adds it."""
        with self._changed:
            self._busy.discard(name)
        if again_s is not None:
            self.add(name, again_s)
        else:
            with self._changed:
                self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
