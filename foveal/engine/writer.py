"""Files written beside the training."""

import threading
from collections.abc import Callable
from types import TracebackType


class Writer:
    """One thread that writes while the main one goes on computing. A second job waits for the first.

    As a context manager it has written everything when the block ends, however it ends; what could not be written
    ends the block with that error, or is noted on the error that ends it.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Starts a job when the one before is done.

        Raises:
            Exception: What the one before failed with; this one is not begun.
        """
        self.wait()
        self.thread = threading.Thread(target=self.work, args=(job,), name='writer')
        self.thread.start()

    def work(self, job: Callable[[], None]) -> None:
        """Does a job and keeps its error."""
        try:
            job()
        except Exception as error:
            self.error = error

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            Exception: What the job failed with, once.
        """
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as error:
            if value is None:
                raise
            value.add_note(str(error))
