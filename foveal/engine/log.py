"""What a run tells: lines and a bar on the screen, files in its folder, trackers."""

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foveal.engine import figures
from foveal.engine.config import to_plain
from foveal.engine.distributed import Process
from foveal.engine.evaluate import Scores
from foveal.engine.goals import AnyScores
from foveal.engine.metrics import of_validation, told
from foveal.engine.run import Run, shorten
from foveal.engine.selection import evaluated
from foveal.engine.top_losses import Mistake
from foveal.engine.tracking import Trackers
from foveal.files import replacing, write_text
from foveal.report.record import Provenance, Samples, write_evaluation

# updates between two looks at the loss: each waits for the device
LOOK_EVERY = 10


class Evaluation(NamedTuple):
    """What the evaluation of an epoch found.

    Attributes:
        scores: Of the model that is judged.
        plain: Of the weights themselves, beside those of their running mean.
        mistakes: The images of the greatest losses, where an image has one class.
    """

    scores: AnyScores
    plain: AnyScores | None
    mistakes: Sequence[Mistake]


class Journal:
    """Tells of a run, on its main process; on the others it does nothing.

    As a context manager it closes the trackers and writes pictures and the report, however the run ends.

    Args:
        run: What is told of.
        output: Its folder.
        process: This process.
        datasets: The images it trains on and those it is evaluated on, by the names train and validation.
        updates: Of an epoch.
    """

    def __init__(self, run: Run, output: Path, process: Process, datasets: dict[str, Samples], updates: int) -> None:
        self.run, self.output, self.shown, self.updates = run, output, process.is_main, updates
        self.images = datasets['validation']
        self.best: Evaluation | None = None
        if not self.shown:
            return
        # one that cannot be started leaves the folder as it is
        self.trackers = Trackers(run.config, output, self.done if run.epoch or run.step else None)
        write_text(output / 'config.yaml', yaml.safe_dump({**to_plain(run.config), 'resume': ''}, sort_keys=False))
        write_text(output / 'classes.json', json.dumps(run.classes, indent=1, ensure_ascii=False))
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
        size = 'x'.join(map(str, run.preprocess.input_size))
        print(f'{run.config.model}: {parameters / 1e6:.2f} M parameters, input {size}')
        print(f'{run.config.data}: {len(run.classes)} classes ({shorten(run.classes)})')
        self.provenance = Provenance(run, output, process, datasets)
        if run.epoch or run.step:
            print(f'going on after {run.epoch} epochs and {run.step} updates')
            forget_updates(output / 'updates.csv', self.done)

    @property
    def done(self) -> int:
        """Updates since the beginning of the run."""
        return self.run.epoch * self.updates + self.run.step

    @contextmanager
    def progress(self) -> Iterator[Callable[[torch.Tensor], None]]:
        """A bar for one epoch, on a terminal; gives the function to call with the loss of each update."""
        run = self.run
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(
            *columns,
            TextColumn('{task.fields[loss]}'),
            transient=True,
            disable=not (self.shown and sys.stderr.isatty()),
            console=Console(stderr=True),
        )
        with bar:
            name = f'epoch {run.epoch + 1}/{run.total_epochs}'
            task = bar.add_task(name, total=self.updates, completed=run.step, loss='')
            every = run.config.log_updates if self.shown else 0
            since, began = run.step, time.perf_counter()

            def advance(loss: torch.Tensor) -> None:
                nonlocal since, began
                bar.advance(task)
                if not bar.disable and run.step % LOOK_EVERY == 0:
                    bar.update(task, loss=f'loss {loss.item():.4f}')
                if every and run.step % every == 0:
                    mean = torch.stack(run.losses[since:]).nanmean().item()
                    now = time.perf_counter()
                    self.update(mean, (run.step - since) * run.global_batch / (now - began), printed=bar.disable)
                    since, began = run.step, now

            yield advance

    def update(self, loss: float, speed: float, printed: bool) -> None:
        """A row of updates.csv.

        Args:
            loss: Mean since the last row, on this process.
            speed: Images a second.
            printed: Whether it is a line on the screen too.
        """
        row = {
            'update': self.done,
            'epoch': round(self.done / self.updates, 6),
            'loss': loss,
            'lr': self.run.optimizer.param_groups[0]['lr'],
            'images_per_second': round(speed, 1),
        }
        path = self.output / 'updates.csv'
        new = not path.exists()
        with path.open('a', encoding='utf-8') as file:
            file.write(as_csv([row], header=new))
        if printed:
            place = f'epoch {self.run.epoch + 1}  update {self.run.step}/{self.updates}'
            print(f'{place}  loss {loss:.4f}  lr {row["lr"]:.2e}  {speed:.0f} images/s', flush=True)
        self.trackers.log({f'update/{key}': row[key] for key in ('loss', 'lr', 'images_per_second')}, self.done)

    def epoch(self, row: dict[str, Any], is_best: bool, found: Evaluation | None) -> None:
        """metrics.csv, one row an epoch; a line on the screen; of the best epoch evaluation.json.

        Args:
            row: The last of the run's history.
            is_best: Whether none was as good.
            found: By its evaluation; None where there was none.
        """
        if not self.shown:
            return
        run = self.run
        write_text(self.output / 'metrics.csv', as_csv(run.history))
        if found and is_best:
            self.best = found
            write_evaluation(self.output, run.epoch, found.scores, run.classes, found.mistakes, self.images)
        said = '  '.join(told(name, value) for name, value in of_validation(row).items())
        said = f'val {said}' if found else 'not evaluated'
        plain = f'plain_{run.goal.metric}'
        beside = f'  plain {told(run.goal.metric, row[plain])}' if plain in row else ''
        print(
            f'epoch {row["epoch"]:>3}/{run.total_epochs}  loss {row["train_loss"]:.4f}  {said}{beside}  '
            f'lr {row["lr"]:.2e}  {row["images_per_second"]:.0f} images/s{"  best" if is_best else ""}',
            flush=True,
        )
        self.trackers.log(row, self.done)

    def __enter__(self) -> 'Journal':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.shown:
            return
        run = self.run
        state = 'finished' if run.epoch >= run.total_epochs else 'stopped'
        state = 'failed' if isinstance(value, Exception) else state
        try:
            files = self.end(state, value if isinstance(value, Exception) else None)
        except Exception as error:
            # a disk that is full, perhaps: the run itself is saved, and what ended it is what must be told
            print(f'no report: {type(error).__name__}: {error}', flush=True)
            files = []
        self.trackers.close(files, self.done, state)
        if value is not None:
            return
        if run.epoch < run.total_epochs:
            print(
                f'stopped after {run.epoch} epochs and {run.step} updates; go on with: '
                f'foveal train --resume {self.output}'
            )
        if run.best is not None:
            metric = run.config.metric
            best, last = (tell(metric, x) for x in (run.best, evaluated(run.history)[-1][metric]))
            print(f'best {best}, last {last}; files in {self.output}')

    def end(self, state: str, error: BaseException | None) -> list[Path]:
        """curves.png, confusion.png of the best epoch where this session saw it, worst.png to be sent, and report.html.

        Args:
            state: finished, stopped or failed.
            error: What ended the run.

        Returns:
            The files.
        """
        from foveal.report.page import write_report

        drawn: dict[str, Any] = {}
        if evaluated(self.run.history):
            drawn['curves.png'] = figures.curves(self.run.history)
        if self.best and isinstance(scores := self.best.scores, Scores):
            drawn['confusion.png'] = figures.confusion_of(scores, self.run.classes)
            if self.trackers.started:
                drawn['worst.png'] = figures.mistakes(self.best.mistakes, self.images, self.run.classes)
        drawn = {name: picture for name, picture in drawn.items() if picture}
        for name, picture in drawn.items():
            with replacing(self.output / name) as temporary:
                picture.savefig(temporary, dpi=120)
        self.provenance.end(state, error)
        report = write_report(self.output)
        return [*(self.output / name for name in drawn), report]


def tell(column: str, value: float) -> str:
    """A value of a column of metrics.csv in words."""
    kind, _, name = column.partition('_')
    return told(name, value) if kind == 'val' else f'{kind} {told(name, value)}'


def as_csv(rows: Sequence[Mapping[str, Any]], header: bool = True) -> str:
    """Rows as text; those that lack some of the others' columns have nothing there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, max(rows, key=len), lineterminator='\n')
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def forget_updates(path: Path, done: int) -> None:
    """Takes what a run will make again, and what was cut off in writing, out of updates.csv."""
    if path.is_file():
        header, *lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
        kept = [line for line in lines if line.endswith('\n') and int(line.partition(',')[0]) <= done]
        write_text(path, header + ''.join(kept))
