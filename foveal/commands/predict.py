"""`foveal predict`: what a model sees on pictures."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.engine.judging import PredictConfig, check_judging

if TYPE_CHECKING:
    from foveal.engine.judge import Judge
    from foveal.engine.predict import Prediction
    from foveal.engine.records import Record

FORMATS = ('table', 'csv', 'json', 'jsonl', 'parquet')
SCORES = ('probability', 'logit')
# options that decide what rows hold
OF_ROWS = (
    'source', 'pretrained', 'checkpoint', 'ema', 'model_options', 'class_map', 'img_size', 'use_test_size', 'crop_pct',
    'crop_mode', 'crop_border_pixels', 'interpolation', 'tta', 'test_pool', 'precision', 'images', 'split', 'topk',
    'scores', 'multi_label', 'threshold', 'label_type', 'include_index', 'all_scores', 'embeddings', 'bad_samples',
)  # fmt: skip


def run(config: PredictConfig) -> int:
    """Prints or writes the guesses for each image.

    Raises:
        ValueError, OSError: Something asked cannot be done.
    """
    from foveal.engine import distributed
    from foveal.engine.artist import Artist
    from foveal.engine.images import open_images
    from foveal.engine.judge import forward_of, load_judge, loader_of
    from foveal.engine.predict import Namer, goal_of, names_of, predict, remaining

    kind = check(config)
    process = distributed.start(config.device, config.threads)
    if process.world_size > 1:
        raise ValueError('predict runs in one process, so that rows come in order; give --devices for several GPUs')
    judge = load_judge(config, config.source, process)
    goal = goal_of(config, judge)
    dataset = open_images(config, judge.numbering)
    names = names_of(judge.labels, judge.outputs, config.label_type)
    artist = Artist(config, judge, names, dataset)
    record = record_of(config, judge)
    sink = sink_of(config, kind, record)
    if sink and not sink.begin(config.resume):
        print(f'{config.output} is there: nothing is left to do', file=sys.stderr)
        return 0
    artist.number = done = sink.done if sink else 0
    if done and hasattr(dataset, 'indices'):
        check_place(dataset, done, sink.last, config)
    rest, skip = remaining(dataset, done)
    forward = forward_of(with_embedding(judge, config), config, goal)
    loader = loader_of(rest, judge, config, process)
    screen = Screen(kind, record)
    for rows, batch, outputs in with_progress(
        predict(judge, forward, loader, Namer(config, names, goal), skip), dataset, done
    ):
        (sink or screen).write(rows)
        artist.draw(rows, batch, outputs)
    (sink or screen).finish()
    artist.finish()
    if bad := loader.bad.rows():
        print(f'{len(bad)} images could not be read, such as: {bad[0]["reason"]}', file=sys.stderr)
    return 0


def check(config: PredictConfig) -> str:
    """Refuses what cannot work before a model is loaded; gives the format.

    Raises:
        ValueError, OSError: Names the field, its value and what is legal.
    """
    from foveal.files import check_writable

    check_judging(config)
    ending = Path(config.output or '').suffix.removeprefix('.')
    kind = config.format or (ending if ending in FORMATS else 'table')
    if kind not in FORMATS:
        raise ValueError(f'format must be one of {", ".join(FORMATS)}, got {config.format!r}')
    if config.output and kind == 'table':
        raise ValueError('output must end in .csv, .json, .jsonl or .parquet, or have a format of these')
    if kind == 'parquet' and not config.output:
        raise ValueError('format=parquet needs an output')
    if config.resume and not config.output:
        raise ValueError('resume goes on with an output, and none is given')
    if config.topk < 0 or (config.topk == 0 and not (config.embeddings or config.all_scores)):
        raise ValueError(f'topk must be at least 1, got {config.topk}; 0 is for embeddings or all_scores alone')
    if config.scores not in SCORES:
        raise ValueError(f'scores must be one of {", ".join(SCORES)}, got {config.scores!r}')
    if not 0 <= config.threshold <= 1:
        raise ValueError(f'threshold must be in [0, 1], got {config.threshold}')
    if config.embeddings and (config.tta or config.test_pool):
        raise ValueError('embeddings are of one view, pooled as the model does: leave out tta and test_pool')
    for path in (config.output, config.sheet):
        check_writable(path)
    for folder in (config.cam, config.attention):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
    return kind


def with_embedding(judge: 'Judge', config: PredictConfig) -> 'Judge':
    """The model, giving what its classifier sees where that is asked for.

    Raises:
        ValueError: A model that was not made by foveal's own classes.
    """
    from dataclasses import replace

    from foveal.engine.predict import WithEmbedding
    from foveal.models.backbone import Backbone

    if not config.embeddings:
        return judge
    if not isinstance(judge.model, Backbone):
        raise ValueError(f'embeddings need a model of foveal; {config.source} is a {type(judge.model).__name__}')
    return replace(judge, model=WithEmbedding(judge.model))


def record_of(config: PredictConfig, judge: 'Judge') -> 'Record':
    """What is written of a prediction."""
    from foveal.engine.records import Record

    count = judge.outputs
    numbers = tuple(judge.goal.classes) if judge.goal and judge.goal.kind == 'numbers' else ()
    return Record(
        0 if numbers else min(config.topk, count),
        config.scores,
        config.include_index,
        count if config.all_scores else 0,
        int(judge.model.head_hidden_size) if config.embeddings else 0,  # type: ignore[arg-type]
        config.bad_samples == 'skip',
        numbers,
    )


def sink_of(config: PredictConfig, kind: str, record: 'Record') -> Any:
    """The file that rows go to; None for the screen."""
    from foveal.engine.sinks import LineSink, ParquetSink

    if not config.output:
        return None
    asked = {name: getattr(config, name) for name in OF_ROWS} | {'format': kind}
    return (ParquetSink if kind == 'parquet' else LineSink)(config.output, kind, record, asked)


def check_place(dataset: Any, done: int, last: str, config: PredictConfig) -> None:
    """Refuses to go on among other images than the rows are of."""
    there = dataset.name(done - 1) if done <= len(dataset) else 'nothing'
    if there.encode(errors='surrogateescape').decode(errors='replace') != last and there != last:
        raise ValueError(f'row {done} of {config.output}.part is of {last}, but image {done} is {there}: other images')


def with_progress(batches: Iterator[Any], dataset: Any, done: int) -> Iterator[Any]:
    """Passes batches on under a bar."""
    from foveal.commands.data import progress_bars
    from foveal.data.stream import StreamDataset

    count = dataset.reader.count if isinstance(dataset, StreamDataset) else len(dataset)
    with progress_bars({'predict': count}) as advance:
        advance('predict', done)
        for batch in batches:
            yield batch
            advance('predict', len(batch[0]))


class Screen:
    """Rows for reading or piping; a table comes when it is whole, the others row by row.

    Args:
        kind: table, csv, json or jsonl.
        record: What is written of a prediction.
    """

    def __init__(self, kind: str, record: 'Record'):
        self.kind, self.record, self.count = kind, record, 0
        self.rows: list[Prediction] = []

    def write(self, predictions: 'Sequence[Prediction]') -> None:
        """Takes rows."""
        from foveal.engine.sinks import csv_line, json_line

        if self.kind == 'table':
            self.rows += predictions
            return
        if self.kind == 'csv' and not self.count:
            sys.stdout.write(csv_line(self.record.header))
        for prediction in predictions:
            self.count += 1
            if self.kind == 'csv':
                sys.stdout.write(csv_line(self.record.cells(prediction)))
                continue
            line = json_line(self.record.document(prediction))
            if self.kind == 'json':
                line = (',\n ' if self.count > 1 else '[\n ') + line.rstrip('\n')
            sys.stdout.write(line)

    def finish(self) -> None:
        """Prints what is left."""
        if self.kind == 'table':
            probability = '{:.1%}' if self.record.score == 'probability' else '{:.2f}'
            sys.stdout.write(as_table(self.rows, '{:.6g}' if self.record.numbers else probability))
        elif self.kind == 'json':
            sys.stdout.write('\n]\n' if self.count else '[]\n')


def as_table(predictions: 'Sequence[Prediction]', score: str = '{:.1%}') -> str:
    """One line an image for reading: file, then labels with their scores in a format."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for prediction in predictions:
        cells = [f'{guess.label} {score.format(guess.score)}' for guess in prediction.guesses]
        table.add_row(prediction.file, *(cells if prediction.error is None else ['cannot be read']))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
