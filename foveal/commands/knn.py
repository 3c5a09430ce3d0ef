"""`foveal knn`: what a model's features are worth, without training it."""

import json
from dataclasses import dataclass

from foveal.engine.judging import LabelledConfig, check_judging


@dataclass(kw_only=True)
class KnnConfig(LabelledConfig):
    """Judge a model's frozen features by weighted nearest neighbours, and by a linear probe."""

    train_split: str = 'train'
    """Split that votes, and that the probe learns from."""
    neighbours: int = 20
    """How many nearest images vote."""
    temperature: float = 0.07
    """A vote counts exp(similarity / temperature)."""
    linear: bool = False
    """Logistic regression on the features too (needs scikit-learn)."""
    strength: float = 1.0
    """Inverse of its L2 penalty."""
    iterations: int = 1000
    """Its most steps."""
    output: str | None = None
    """Also write the results to this JSON file."""


def run(config: KnnConfig) -> int:
    """Measures, prints and writes the accuracies.

    Raises:
        ValueError, OSError: Something asked cannot be done.
    """
    from foveal.engine import distributed
    from foveal.engine.judge import forward_of, load_judge, loader_of, open_labelled
    from foveal.engine.probe import accuracies, extract, knn_votes, linear_probe
    from foveal.files import check_writable, write_text
    from foveal.models.backbone import Backbone

    if not config.data:
        raise ValueError('data is missing: give --data FOLDER or --data torch/NAME')
    check_judging(config)
    check_writable(config.output)
    for name in ('neighbours', 'iterations'):
        if getattr(config, name) < 1:
            raise ValueError(f'{name} must be at least 1, got {getattr(config, name)}')
    for name in ('temperature', 'strength'):
        if not getattr(config, name) > 0:
            raise ValueError(f'{name} must be above 0, got {getattr(config, name)}')
    if config.tta or config.test_pool:
        raise ValueError('features are of one view, pooled as the model does: leave out tta and test_pool')
    process = distributed.start(config.device, config.threads)
    if process.world_size > 1:
        raise ValueError('knn runs in one process; give --devices for several GPUs')
    judge = load_judge(config, config.source, process)
    if not isinstance(judge.model, Backbone):
        raise ValueError(f'knn needs a model of foveal; {config.source} is a {type(judge.model).__name__}')
    judge.model.reset_classifier(0)
    forward = forward_of(judge, config)
    sets = [open_labelled(config, judge, split) for split in (config.train_split, config.split)]
    classes = sets[0].classes
    if sets[1].classes != classes or any(each.reader.task != 'class' for each in sets):
        raise ValueError(f'{config.data}: {config.train_split} and {config.split} must have the same classes, one each')
    train, test = (extract(forward, loader_of(each, judge, config, process), config.precision) for each in sets)
    votes = knn_votes(train, test.vectors, len(classes), config.neighbours, config.temperature)
    result = {'source': config.source, 'data': config.data, 'train': len(train.targets), 'count': len(test.targets)}
    found = {'knn': accuracies(votes, test.targets)}
    if config.linear:
        found['linear'] = linear_probe(train, test, len(classes), config.strength, config.iterations)
    for name, said in found.items():
        print(f'{name}: top-1 {said["top1"]:.3f} %, top-5 {said["top5"]:.3f} % of {len(test.targets)} images')
    if config.output:
        write_text(config.output, json.dumps(result | found, indent=1) + '\n')
    return 0
