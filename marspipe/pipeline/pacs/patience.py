"""How often, and after what time, something is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Patience:
    """Exponential back-off with jitter.

    Attributes
    ----------
    retries : int
        Tries in a row without success, after the first.
    first_s, longest_s : float
        Time before the first retry, and at most before any, s. Half of it is random, so that many clients of a peer
        that comes back do not all come at once.
    sleep : callable
        Waits so many seconds.
    """

    retries: int = 6
    first_s: float = 1.0
    longest_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    _failed: int = field(default=0, init=False)

    def reset(self) -> None:
        """Note that something has succeeded."""
        self._failed = 0

    def wait(self, say: Callable[[float], None] | None = None) -> bool:
        """Wait before the next try; False if there is to be none. ``say`` is told the time, s."""
        if self._failed >= self.retries:
            return False
        longest = min(self.longest_s, self.first_s * 2.0**self._failed)
        delay_s = longest * random.uniform(0.5, 1.0)
        self._failed += 1
        if say is not None:
            say(delay_s)
        self.sleep(delay_s)
        return True
