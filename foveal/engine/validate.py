"""One model measured on one data set, with all that a report tells."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from foveal.data import ImageDataset
from foveal.data.stream import StreamDataset
from foveal.engine.calibration import Calibrated, Calibration
from foveal.engine.config import to_plain
from foveal.engine.distributed import Process
from foveal.engine.evaluate import Meter, outputs
from foveal.engine.goals import AnyScores, Goal, check_kind, judged_by
from foveal.engine.judge import Judge, forward_of, load_judge, loader_of, open_labelled
from foveal.engine.judging import ValidateConfig
from foveal.engine.matching import Matching, matching_of
from foveal.engine.provenance import data_hash, versions, weights_hash
from foveal.engine.real_labels import RealLabels
from foveal.engine.top_losses import Mistake, TopLosses


@dataclass
class Found:
    """What was measured.

    Attributes:
        result: The report, as JSON holds it.
        scores: What the meter found.
        classes: Names of the scored classes.
        captions: The same for readers: of ImageNet the words, not the WordNet ids.
        dataset: The images.
        calibrated, mistakes: Of one label an image.
    """

    result: dict[str, Any]
    scores: AnyScores
    classes: list[str]
    captions: list[str]
    dataset: ImageDataset | StreamDataset
    calibrated: Calibrated | None = None
    mistakes: list[Mistake] = field(default_factory=list)


@dataclass
class Validator:
    """Measures models one after the other on the same data.

    Attributes:
        config: What is asked; its source is not looked at.
        process: This process.
    """

    config: ValidateConfig
    process: Process
    hashes: dict[str, str | None] = field(default_factory=dict)

    def __call__(self, source: str) -> Found:
        """Measures one model.

        Raises:
            ValueError, OSError: Something asked cannot be done, or the model's classes are not the data's.
        """
        config = self.config
        judge = load_judge(config, source, self.process)
        dataset = open_labelled(config, judge)
        kind = dataset.reader.task
        check_kind(judge.goal, kind, source, config.data)
        matching = matching_of(judge, judge.outputs, dataset.classes, source, config.data, config.valid_labels)
        goal = judged_by(judge.goal, kind, matching.classes, config.threshold)
        if kind == 'numbers' and (config.valid_labels or dataset.classes != matching.classes):
            raise ValueError(f'{source} gives {matching.classes}, {config.data} has {dataset.classes}: numbers are '
                             'scored all, in their order')  # fmt: skip
        found = self.single(judge, dataset, matching) if kind == 'class' else self.rows(judge, dataset, matching, goal)
        parameters = sum(parameter.numel() for parameter in judge.model.parameters())
        found.result = {
            'source': source,
            'data': config.data,
            'split': config.split,
            **found.result,
            'params': parameters,
            'precision': config.precision,
            'preprocess': judge.preprocess.to_dict(),
            'config': to_plain(config) | {'source': source},
            'weights_hash': weights_hash(judge.model),
            'data_hash': self.hash_of(dataset),
            'versions': versions(),
        }
        return found

    def hash_of(self, dataset: ImageDataset | StreamDataset) -> str | None:
        """The hash of the data, found once for each numbering of the classes."""
        key = '\n'.join(dataset.classes)
        if key not in self.hashes and self.process.is_main:
            self.hashes[key] = data_hash(dataset, self.config.workers)
        return self.hashes.get(key)

    def single(self, judge: Judge, dataset: ImageDataset | StreamDataset, matching: Matching) -> Found:
        """Scores of one label an image."""
        config, device = self.config, self.process.device
        loader = loader_of(dataset, judge, config, self.process)
        meter, worst = Meter(len(matching.classes), device), TopLosses()
        calibration = Calibration(device, fit=config.calibration)
        real = None
        if config.real_labels:
            if isinstance(dataset, StreamDataset):
                raise ValueError(f'real_labels goes by the names of files; {config.data} is a stream')
            real = RealLabels(config.real_labels, dataset, device)
        forward, left_out = forward_of(judge, config), 0
        clock = Clock(device)
        for logits, targets, addresses in clock.count(outputs(forward, loader, config.precision)):
            if real:
                real.update(logits, addresses)
            chosen, truths = matching.logits(logits), matching.targets(targets)
            if (known := truths >= 0).all():
                where = addresses
            else:
                chosen, truths, where = chosen[known], truths[known], addresses[known.cpu()]
                left_out += int((~known).sum())
            meter.update(chosen, truths)
            calibration.update(chosen, truths)
            worst.update(chosen, truths, where)
        scores, calibrated = meter.compute(), calibration.compute()
        bad = loader.bad.merged()
        result: dict[str, Any] = {**scores.to_dict(), 'averages': scores.averages()}
        result |= real.compute() if real else {}
        result |= {'ece': calibrated.ece, 'calibration': calibrated.to_dict()}
        if left_out:
            result['left_out'] = left_out
        result |= clock.result(forward.limit or config.batch_size)
        result['per_class'] = scores.per_class(matching.classes)
        mistakes = worst.compute()
        result['top_losses'] = [row.to_dict(dataset.name(row.index), matching.classes) for row in mistakes]
        result['bad_samples'] = bad
        return Found(result, scores, matching.classes, captions(judge, matching), dataset, calibrated, mistakes)

    def rows(self, judge: Judge, dataset: ImageDataset | StreamDataset, matching: Matching, goal: Goal) -> Found:
        """Scores of any number of labels an image, or of numbers."""
        config, device = self.config, self.process.device
        for name in ('real_labels', 'calibration'):
            if getattr(config, name):
                raise ValueError(f'{name} is for data with one label an image; {config.data} has {goal.about}')
        loader = loader_of(dataset, judge, config, self.process)
        meter, forward = goal.meter(device), forward_of(judge, config, goal)
        clock = Clock(device)
        for logits, targets, _ in clock.count(outputs(forward, loader, config.precision)):
            meter.update(matching.logits(logits), matching.targets(targets))
        scores = meter.compute()
        result = {**scores.to_dict(), **clock.result(forward.limit or config.batch_size)}
        result['per_class'] = scores.per_class(matching.classes)
        result['bad_samples'] = loader.bad.merged()
        return Found(result, scores, matching.classes, captions(judge, matching), dataset)


def captions(judge: Judge, matching: Matching) -> list[str]:
    """What a reader calls the scored classes."""
    said = {label.name: label.description for label in judge.labels or ()}
    return [said.get(name, name) for name in matching.classes]


class Clock:
    """Throughput and memory of an evaluation.

    Args:
        device: Where it runs.
    """

    def __init__(self, device: torch.device):
        self.device, self.images = device, 0
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(device)
        self.start = time.perf_counter()

    def count(self, batches: Iterable[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, Any, Any]]:
        """Passes batches of logits, targets and addresses on."""
        for batch in batches:
            self.images += len(batch[2])
            yield batch

    def result(self, batch_size: int) -> dict[str, Any]:
        """Seconds, images a second of this process, and the most memory: of the device, or of the process on a CPU."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            # kilobytes on Linux, bytes on macOS
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
        seconds = time.perf_counter() - self.start
        return {
            'batch_size': batch_size,
            'seconds': round(seconds, 2),
            'images_per_second': round(self.images / max(seconds, 1e-9), 2),
            'peak_memory_mb': round(peak / 2**20, 1),
        }
