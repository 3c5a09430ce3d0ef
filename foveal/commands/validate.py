"""`foveal validate`: how good a model is on labelled images."""

import json

from foveal.engine.config import ValidateConfig, check_precision


def run(config: ValidateConfig) -> int:
    """Measures, prints and writes the scores.

    Raises:
        ValueError, OSError: Something asked cannot be done, or the model's classes are not the data's.
    """
    from foveal.data import create_dataset, create_loader
    from foveal.data.dataset import read_class_map
    from foveal.engine import distributed
    from foveal.engine.checkpoint import load_model
    from foveal.engine.evaluate import evaluate
    from foveal.files import check_writable, write_text

    if not config.data:
        raise ValueError('data is missing: give --data FOLDER or --data torch/NAME')
    check_precision(config.precision)
    check_writable(config.output)
    process = distributed.start(config.device, config.threads)
    overrides = {key: getattr(config, key) for key in ('img_size', 'crop_pct', 'crop_mode', 'interpolation')}
    loaded = load_model(config.source, config.pretrained, config.checkpoint, config.model_options, overrides)
    numbering = list(read_class_map(config.class_map) or loaded.classes or [])
    named = config.data.startswith('torch/')
    dataset = create_dataset(
        config.data,
        config.data_root,
        config.split,
        download=config.download,
        class_map=None if named or not numbering else numbering,
        val_fraction=config.val_fraction,
    )
    check_classes(loaded.model.num_classes, numbering, dataset.classes, config)
    loader = create_loader(
        dataset,
        **loaded.preprocess,
        batch_size=config.batch_size,
        num_workers=config.workers,
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
    )
    scores = evaluate(loaded.model.to(process.device), loader, len(dataset.classes), config.precision)
    distributed.finish()
    if process.is_main:
        report = {**scores.to_dict(), 'preprocess': loaded.preprocess.to_dict(), 'source': config.source}
        report |= {'data': config.data, 'split': config.split, 'per_class': scores.per_class(dataset.classes)}
        if config.output:
            write_text(config.output, json.dumps(report, indent=1, ensure_ascii=False) + '\n')
        if config.per_class:
            print_classes(report['per_class'])
        print(f'{scores.count} images: top-1 {scores.top1:.3f} %, top-5 {scores.top5:.3f} %, loss {scores.loss:.4f}')
    return 0


def check_classes(outputs: int, numbering: list[str], classes: list[str], config: ValidateConfig) -> None:
    """A model's outputs must mean the data's classes."""
    if outputs != len(classes):
        raise ValueError(f'{config.source} tells {outputs} classes apart, {config.data} has {len(classes)}')
    if numbering and numbering != classes:
        raise ValueError(f'{config.source} knows the classes {numbering[:5]} ..., {config.data} has {classes[:5]} ...')


def print_classes(rows: list[dict[str, object]]) -> None:
    """Print a table of the classes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('class')
    for title in ('images', 'recall %', 'precision %'):
        table.add_column(title, justify='right')
    for row in rows:
        table.add_row(*('' if value is None else str(value) for value in row.values()))
    Console().print(table)
