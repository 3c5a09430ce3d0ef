"""Buckets that take their step together, by the same formula and numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveal.optim.bucket import Bucket
from foveal.optim.program import Formula
from foveal.replay import Replay
from foveal.traced import Traced


class Batch:
    """Buckets of one device, all of them compiled or none.

    On a GPU those of small tensors are replayed, with gradients and numbers in memory of their own: launching their
    kernels one by one takes several times as long as they do.
    """

    def __init__(self, buckets: list[Bucket]) -> None:
        self.first = buckets[0]
        self.members = [p for bucket in buckets for p in bucket.params]
        self.places = [(state, name) for bucket in buckets for state in bucket.states for name in bucket.names]
        self.held = [state[name] for state, name in self.places]  # so that no other tensor can have their identities
        self.seen = self.look()
        self.direct = [bucket for bucket in buckets if not bucket.records]
        self.recorded = [bucket for bucket in buckets if bucket.records]
        self.params = [p for bucket in self.recorded for p in bucket.params]
        self.gradients = [torch.empty_like(bucket.p, dtype=bucket.gradient_dtype) for bucket in self.recorded]
        parts = [part for b, whole in zip(self.recorded, self.gradients, strict=True) for part in b.split(whole)]
        self.parts = [
            part if part.shape == p.shape else part.as_strided(p.shape, p.stride())
            for part, p in zip(parts, self.params, strict=True)
        ]
        self.replays: dict[Formula, tuple[Tensor, Callable[[], None]]] = {}  # with the numbers that they read

    def look(self) -> tuple[list[int], list[int]]:
        """Where the parameters lie, and which tensors the states are."""
        return [p.data_ptr() for p in self.members], [id(state[name]) for state, name in self.places]

    def current(self) -> bool:
        """Whether the tensors are still those seen when the batch was made."""
        return self.look() == self.seen

    def run(self, formula: Formula, values: list[Any]) -> None:
        """Takes a step by a formula and its floats of now, in order."""
        compiles = self.first.compiles
        given: Any = pack(values, self.first.device) if compiles else values
        # beforehand, since a kernel fills the caches: among them each view takes three times as long
        views = [None if bucket.parts else bucket.gradients() for bucket in self.direct]
        for bucket, view in zip(self.direct, views, strict=True):
            bucket.run(formula, given, bucket.gradients() if view is None else view)
        if self.recorded:
            self.replay(formula, given if compiles else pack(values, self.first.device))
        # neither kernels nor replays tell autograd what they change
        torch.autograd.graph.increment_version(self.params + [bucket.p for bucket in self.direct if compiles])

    def replay(self, formula: Formula, numbers: Tensor) -> None:
        """Takes it with the small tensors."""
        torch._foreach_copy_(self.parts, [p.grad for p in self.params])  # type: ignore[misc]
        if formula in self.replays:
            kept, replay = self.replays[formula]
            kept.copy_(numbers)
            replay()
            return
        # uncompiled, some operations want them in the tensors' dtype
        work = torch.promote_types(self.first.p.dtype, torch.float32)
        kept = numbers.to(torch.float64 if self.first.compiles else work, copy=True)
        launch = partial(self.launch, formula, kept)
        launch()
        # what has no kernel after all needs its numbers in Python
        fits = not self.first.compiles or all(isinstance(bucket.advance, Traced) for bucket in self.recorded)
        self.replays[formula] = kept, Replay(launch, self.first.device) if fits else launch

    def launch(self, formula: Formula, numbers: Tensor) -> None:
        """What is recorded."""
        for bucket, gradient in zip(self.recorded, self.gradients, strict=True):
            bucket.run(formula, numbers, gradient)


def pack(values: list[Any], device: torch.device) -> Tensor:
    """Numbers as one tensor: in float64, since 1 - 0.999 in float32 is wrong in the fifth digit."""
    tensors = {i: v for i, v in enumerate(values) if isinstance(v, Tensor)}
    plain = [0.0 if i in tensors else v for i, v in enumerate(values)]
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        # a graph would read again where a copy came from, which is then something else
        packed = torch.stack([torch.full((), v, dtype=torch.float64, device=device) for v in plain])
    else:  # from pinned memory, or the copy would wait for all that the device has yet to do
        packed = torch.tensor(plain, dtype=torch.float64, pin_memory=device.type == 'cuda')
        packed = packed.to(device, non_blocking=True)
    for i, v in tensors.items():
        packed[i] = v
    return packed
