"""Work shared out over processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Job = TypeVar('Job')
Result = TypeVar('Result')

WAITING = 4  # jobs for each process, done or not, that are held at a time

_shared: list[Any] = []


def gather(
    work: Callable[..., Result], shared: tuple[Any, ...], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Runs `work(*shared, job)` for every job.

    Processes are forked where the system can, so that what is shared is not copied. They leave Ctrl-C to the main
    process, where it ends the iteration; jobs that have begun are finished.

    Args:
        work: A function of a module.
        shared: Its first arguments.
        jobs: Its last one; taken as they are needed.
        workers: Processes; 0 does it in this one.

    Yields:
        Each job and its result, as they are done.
    """
    if workers == 0:
        for job in jobs:
            yield job, work(*shared, job)
        return
    way = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn'
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(way), _start, shared)
    running: dict[Future[Result], Job] = {}
    try:
        for job in jobs:
            running[pool.submit(_run, work, job)] = job
            if len(running) >= WAITING * workers:
                yield from _done(running)
        while running:
            yield from _done(running)
    finally:
        pool.shutdown(cancel_futures=True)


def _done(running: dict[Future[Result], Job]) -> Iterator[tuple[Job, Result]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def _start(*shared: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared[:] = shared


def _run(work: Callable[..., Result], job: Any) -> Result:
    return work(*_shared, job)
