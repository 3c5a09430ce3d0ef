"""`foveal average`: one model from several checkpoints."""

from dataclasses import dataclass
from typing import Any


@dataclass
class AverageConfig:
    """Average the weights of several checkpoints of one model."""

    inputs: list[str]
    """Checkpoints, weights files, or runs' folders (their best)."""
    output: str = 'average.safetensors'
    """File to write."""
    greedy: bool = False
    """Take only what does no harm (greedy soup), measured on --data."""
    data: str = ''
    """For --greedy: a folder of class folders, or torch/NAME."""
    data_root: str | None = None
    """Where a named set lies."""
    split: str = 'validation'
    """Split to measure on."""
    val_fraction: float = 0.0
    """Above 0: measure on the share of the training images that training with this value held out."""
    batch_size: int = 256
    """Images a step."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    workers: int = 2
    """Processes that read images; 0: none."""


def run(config: AverageConfig) -> int:
    """Averages and writes.

    Raises:
        ValueError, OSError: Files that cannot be read, or are of different models.
    """
    from foveal.engine.average import average, fingerprint, greedy_soup, write
    from foveal.files import check_writable

    check_writable(config.output)
    if config.greedy and not config.data:
        raise ValueError('--greedy measures the averages: give --data')
    chosen = greedy_soup(config.inputs, judge(config)) if config.greedy else config.inputs
    weights = average(chosen)
    write(config.output, weights)
    for path in chosen:
        print(path)
    print(f'average of {len(chosen)} in {config.output}, sha256 of its weights {fingerprint(weights.tensors)[:8]}')
    return 0


def judge(config: AverageConfig) -> Any:
    """A function that says how good weights are on the data asked for."""
    from foveal.data import create_dataset, create_loader
    from foveal.data.source import is_named
    from foveal.engine import distributed
    from foveal.engine.checkpoint import load_model
    from foveal.engine.evaluate import evaluate
    from foveal.engine.goals import restored
    from foveal.engine.metrics import told

    process = distributed.start(config.device)
    loaded = load_model(config.inputs[0])
    assert loaded.header is not None
    goal = restored(loaded.header)
    dataset = create_dataset(
        config.data,
        config.data_root,
        config.split,
        class_map=None if is_named(config.data) else loaded.classes,
        target_format=loaded.header.get('task', {}).get('target_format'),
        val_fraction=config.val_fraction,
    )
    loader = create_loader(
        dataset,
        **loaded.preprocess,
        batch_size=config.batch_size,
        num_workers=config.workers,
        device=process.device,
    )
    model = loaded.model.to(process.device)

    def score(tensors: Any) -> float:
        model.load_state_dict(tensors)
        reached: float = evaluate(model, loader, goal).to_dict()[goal.metric]
        print(told(goal.metric, reached, 3), flush=True)
        return reached

    return score
