"""Work on a GPU launched at once: recorded as a CUDA graph, then replayed."""

import warnings
from collections.abc import Callable

import torch

DIRECT = 2  # calls before a recording, in which all is compiled and loaded


def can_record(device: torch.device) -> bool:
    """Whether work on a device can be recorded."""
    return device.type == 'cuda'


class Replay:
    """A function that reads and writes the same tensors at every call, without the time to launch kernel after kernel.

    It is run as it is where memory does not suffice for a recording, which a warning tells, and within a recording of
    the caller's.

    Args:
        function: Does nothing that waits for the device or decides by values of tensors.
        device: Of all tensors.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self.function, self.device = function, device
        self.left = DIRECT
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            self.function()
            return
        if self.left == 0 and self.graph is None:
            self.graph = self.record()
        self.left -= 1
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def record(self) -> torch.cuda.CUDAGraph | None:
        """The graph, which has not run yet."""
        graph, ours = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        theirs = torch.cuda.current_stream(self.device)
        ours.wait_stream(theirs)
        with torch.cuda.stream(ours):
            graph.capture_begin(capture_error_mode='thread_local')  # loaders pin memory in threads of theirs
            try:
                self.function()
            except torch.OutOfMemoryError as error:
                warnings.warn(f'not recorded as a CUDA graph: {str(error).splitlines()[0]}', stacklevel=4)
                return None
            finally:
                graph.capture_end()
        theirs.wait_stream(ours)
        return graph
