"""`foveal predict`: what a model sees on pictures."""

import sys

from foveal.engine.config import PredictConfig, check_precision

FORMATS = ('table', 'csv', 'json')
SHEET_IMAGES = 48


def run(config: PredictConfig) -> int:
    """Prints or writes the guesses for each image.

    Raises:
        ValueError, OSError: Something asked cannot be done.
    """
    from foveal.data import read_image
    from foveal.data.dataset import read_class_map
    from foveal.engine import distributed, figures
    from foveal.engine.checkpoint import Loaded, load_model
    from foveal.engine.predict import as_csv, as_json, find_images, predict
    from foveal.files import check_writable, replacing, write_text

    if config.format not in FORMATS:
        raise ValueError(f'format must be one of {", ".join(FORMATS)}, got {config.format!r}')
    check_precision(config.precision)
    check_writable(config.output)
    check_writable(config.sheet)
    files = find_images(config.images)
    process = distributed.start(config.device, config.threads)
    overrides = {key: getattr(config, key) for key in ('img_size', 'crop_pct', 'crop_mode', 'interpolation')}
    loaded = load_model(config.source, config.pretrained, config.checkpoint, config.model_options, overrides)
    if config.class_map:
        loaded = Loaded(loaded.model, loaded.preprocess, list(read_class_map(config.class_map) or []))
    if loaded.classes and len(loaded.classes) != loaded.model.num_classes:
        raise ValueError(f'{loaded.model.num_classes} outputs, but class_map names {len(loaded.classes)} classes')
    predictions = predict(
        loaded, files, config.topk, config.batch_size, config.workers, process.device, config.precision
    )
    text = {'table': as_table, 'csv': as_csv, 'json': as_json}[config.format](predictions)
    if config.output:
        write_text(config.output, text)
    else:
        sys.stdout.write(text)
    if config.sheet:
        shown = predictions[:SHEET_IMAGES]
        channels = loaded.preprocess.input_size[0]
        images = [read_image(prediction.file, channels) for prediction in shown]
        figure = figures.sheet(images, [p.file for p in shown], [p.guesses for p in shown])
        with replacing(config.sheet) as temporary:
            figure.savefig(temporary, dpi=130)
        if len(shown) < len(predictions):
            print(f'{config.sheet} shows the first {len(shown)} of {len(predictions)} images', file=sys.stderr)
    return 0


def as_table(predictions: list) -> str:
    """One line an image for reading: file, then labels with their probabilities."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for prediction in predictions:
        table.add_row(prediction.file, *(f'{label} {100 * chance:.1f} %' for label, chance in prediction.guesses))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
