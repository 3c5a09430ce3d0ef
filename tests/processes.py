"""Several processes that compute together, forked from a test: with torch imported, so that they start at once."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context('fork')


def member(rank: int, world_size: int, folder: Path, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """One of them: leaves what it fails with in the folder."""
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(world_size)}
    torch.set_num_threads(1)
    try:
        dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size)
        act(*args)
        if dist.is_initialized():
            dist.destroy_process_group()
    except BaseException:
        (folder / f'{rank}.txt').write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def together(world_size: int, act: Callable[..., Any], *args: Any) -> None:
    """Lets processes act together.

    Raises:
        AssertionError: One failed; says with what.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            CONTEXT.Process(target=member, args=(rank, world_size, Path(folder), act, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            process.kill()
        said = [path.read_text() for path in sorted(Path(folder).glob('*.txt'))]
        codes = [process.exitcode for process in processes]
    assert not any(codes), '\n'.join([f'exit codes {codes}', *said])
