"""Ending a run early, in order: signals, and the agreement of all processes that one came."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from foveal.engine import distributed

# updates between the questions whether any process was told to stop: each costs a synchronisation
ASK_EVERY = 10


def stop_agreed(step: int, stop: threading.Event, process: distributed.Process) -> bool:
    """Whether a signal came, to any process."""
    if process.world_size == 1:
        return stop.is_set()
    if step % ASK_EVERY:
        return False
    return distributed.total(torch.tensor(float(stop.is_set()), device=process.device)).item() > 0


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Within the block SIGINT and SIGTERM set the event. A later SIGINT, of who will not wait, interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    patience = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal patience
        del frame
        if number == signal.SIGINT and event.is_set() and time.monotonic() > patience:
            raise KeyboardInterrupt
        if not event.is_set():
            # a terminal and torchrun may both pass one Ctrl-C on
            patience = time.monotonic() + 1
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def named_death() -> Iterator[None]:
    """Says in words that a process that reads images was killed.

    Raises:
        ChildProcessError: It was. The signal may come in the middle of an update, so nothing is saved then.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith('DataLoader worker'):
            raise
        raise ChildProcessError(
            f'{error}; was memory short? Fewer workers take less of it. Go on with --resume from the last checkpoint'
        ) from error
