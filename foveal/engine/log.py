"""What a run tells: lines and a bar on the screen, files in its folder."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foveal.engine import figures
from foveal.engine.config import to_plain
from foveal.engine.evaluate import Scores
from foveal.engine.run import Run, shorten
from foveal.files import replacing, write_text

# updates between two looks at the loss: each waits for the device
LOOK_EVERY = 10


def write_start(run: Run, output: Path) -> None:
    """config.yaml (which `--config` reads) and classes.json; says what is about to run."""
    write_text(output / 'config.yaml', yaml.safe_dump({**to_plain(run.config), 'resume': ''}, sort_keys=False))
    write_text(output / 'classes.json', json.dumps(run.classes, indent=1, ensure_ascii=False))
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    size = 'x'.join(map(str, run.preprocess.input_size))
    print(f'{run.config.model}: {parameters / 1e6:.2f} M parameters, input {size}')
    print(f'{run.config.data}: {len(run.classes)} classes ({shorten(run.classes)})')
    if run.epoch or run.step:
        print(f'going on after {run.epoch} epochs and {run.step} updates')


@contextmanager
def progress(run: Run, updates: int, shown: bool) -> Iterator[Callable[[torch.Tensor], None]]:
    """A bar for one epoch, on a terminal; gives the function to call with the loss of each update."""
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        TextColumn('{task.fields[loss]}'),
        transient=True,
        disable=not (shown and sys.stderr.isatty()),
        console=Console(stderr=True),
    )
    with bar:
        name = f'epoch {run.epoch + 1}/{run.total_epochs}'
        task = bar.add_task(name, total=updates, completed=run.step, loss='')

        def advance(loss: torch.Tensor) -> None:
            bar.advance(task)
            if not bar.disable and run.step % LOOK_EVERY == 0:
                bar.update(task, loss=f'loss {loss.item():.4f}')

        yield advance


def write_epoch(run: Run, output: Path, row: dict[str, Any], is_best: bool) -> None:
    """metrics.csv, one row an epoch; and a line on the screen."""
    text = io.StringIO()
    writer = csv.DictWriter(text, row, lineterminator='\n')
    writer.writeheader()
    writer.writerows(run.history)
    write_text(output / 'metrics.csv', text.getvalue())
    print(
        f'epoch {row["epoch"]:>3}/{run.total_epochs}  loss {row["train_loss"]:.4f}  val loss {row["val_loss"]:.4f}  '
        f'top-1 {row["val_top1"]:.2f} %  top-5 {row["val_top5"]:.2f} %  lr {row["lr"]:.2e}  '
        f'{row["images_per_second"]:.0f} images/s{"  best" if is_best else ""}',
        flush=True,
    )


def write_end(run: Run, output: Path, scores: Scores | None) -> None:
    """curves.png, and confusion.png of the last evaluation; says where everything is."""
    if run.history:
        with replacing(output / 'curves.png') as temporary:
            figures.curves(run.history).savefig(temporary, dpi=120)
    if scores is not None:
        with replacing(output / 'confusion.png') as temporary:
            figures.confusion(scores.confusion, run.classes).savefig(temporary, dpi=120)
    if run.epoch < run.total_epochs:
        print(f'stopped after {run.epoch} epochs and {run.step} updates; go on with: foveal train --resume {output}')
    if run.best is not None:
        print(f'best top-1 {run.best:.2f} %, last {run.history[-1]["val_top1"]:.2f} %; files in {output}')
