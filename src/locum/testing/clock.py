"""A clock that stands still until it is told to move."""

from __future__ import annotations


class Clock:
    """Call it for the time in seconds; `sleep` moves it at once, so back-off of hours takes no time in a test."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.time = start
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds

    async def sleep(self, seconds: float) -> None:
        """An asyncio-shaped sleep that moves the clock instead of waiting."""
        self.slept.append(seconds)
        self.advance(seconds)
