"""Two libraries timed against each other: each in a process of its own, in turns."""

import os
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping

# glibc gives large blocks back to the kernel when they are freed and has their pages cleared again for the next
# tensor: an addition over 10 MB then takes 8 to 16 ms instead of 0.3, or does not, by the luck of the process. Both
# sides keep their memory.
ENVIRONMENT = {'MALLOC_MMAP_THRESHOLD_': str(1 << 32), 'MALLOC_TRIM_THRESHOLD_': str(1 << 36)}


class Side:
    """One library in a process of its own.

    Args:
        python: Interpreter.
        worker: Program; it reads one job a line and answers each with a line.
        arguments: Of the program.
        environment: Variables set for it.
    """

    def __init__(self, python: str, worker: str, *arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> None:
        command = [python, '-W', 'ignore', '-c', worker, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict(environment)
        )
        self.told: deque[str] = deque()

    def tell(self, job: str) -> None:
        """Give one job, without waiting for the answer."""
        assert self.process.stdin
        self.process.stdin.write(f'{job}\n')
        self.process.stdin.flush()
        self.told.append(job)

    def hear(self) -> str:
        """The answer to the first job that is not answered yet."""
        assert self.process.stdout
        answer, job = self.process.stdout.readline(), self.told.popleft()
        if not answer:
            raise RuntimeError(f'a side of the benchmark died at {job!r}')
        return answer.strip()

    def ask(self, job: str) -> str:
        """The answer to one job."""
        self.tell(job)
        return self.hear()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(
    start: Callable[[str], Side], names: list[str], job: str, rounds: int, processes: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of one job on every side.

    Args:
        start: Starts a side by its name.
        names: The sides.
        job: The line that each gets; the answer is seconds.
        rounds: Measurements a process; the side that goes first changes from round to round.
        processes: Fresh processes a side, since where the memory of one happens to lie moves its times by a tenth.
        warmup: Answers that do not count, a process.

    Returns:
        The seconds of each side, round by round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(processes):
        sides = {name: start(name) for name in names}
        for i in range(rounds + warmup):
            for name in names if i % 2 else reversed(names):
                taken = float(sides[name].ask(job))
                if i >= warmup:
                    seconds[name].append(taken)
        for side in sides.values():
            side.close()
    return seconds


def versus(seconds: dict[str, list[float]]) -> str:
    """How many times faster the first of two sides is: median of the rounds' ratios, and their quartiles; '' of one."""
    if len(seconds) < 2:
        return ''
    ours, theirs = seconds.values()
    low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, theirs, strict=True)], n=4)
    return f'{middle:11.2f} ({low:.2f} to {high:.2f})'


def interpreters(peer: str | None) -> dict[str, str]:
    """Library -> interpreter of the sides: ours, and the peer's where one is given."""
    return {'foveal': sys.executable} | ({'timm': peer} if peer else {})
