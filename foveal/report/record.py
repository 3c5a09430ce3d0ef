"""What a run writes for its report: provenance.json at its start and end, evaluation.json of its best epoch."""

import base64
import io
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from foveal.data import ImageDataset, UnreadableImageError
from foveal.data.images import decode
from foveal.data.stream import StreamDataset
from foveal.engine.distributed import Process
from foveal.engine.evaluate import Scores
from foveal.engine.figures import as_image
from foveal.engine.goals import AnyScores
from foveal.engine.provenance import listing_hash, versions
from foveal.engine.run import Run
from foveal.engine.top_losses import Mistake
from foveal.files import write_text
from foveal.report.folder import EVALUATION, PROVENANCE

WORST = 24  # images of the largest losses that are kept
SIDE = 160  # of their pictures
DRAWN = 64  # images up to this size are kept without loss: their few pixels are looked at one by one

Samples = ImageDataset | StreamDataset


class Provenance:
    """Where a run comes from: data, versions, and each of its sessions, from a start to an end.

    Args:
        run: As it starts.
        output: Its folder.
        process: This process.
        datasets: Name -> images.
    """

    def __init__(self, run: Run, output: Path, process: Process, datasets: dict[str, Samples]) -> None:
        self.run, self.path = run, output / PROVENANCE
        earlier = json.loads(self.path.read_text(encoding='utf-8')) if self.path.is_file() else {}
        self.session: dict[str, Any] = {
            'started': now(),
            'ended': None,
            'state': 'running',
            'after': [run.epoch, run.step],
            'command': shlex.join(sys.argv),
            'processes': process.world_size,
            'device': describe(process.device),
            'threads': torch.get_num_threads(),
            'versions': versions(),
        }
        self.content = {
            'model': run.config.model,
            'parameters': sum(parameter.numel() for parameter in run.model.parameters()),
            'input_size': list(run.preprocess.input_size),
            'kind': run.goal.kind,
            'epochs': run.total_epochs,
            'global_batch': run.global_batch,
            'data': {
                name: {'images': size_of(images), 'listing_hash': listing_hash(images)}
                for name, images in datasets.items()
            },
            'sessions': [*earlier.get('sessions', []), self.session],
        }
        self.write()

    def end(self, state: str, error: BaseException | None) -> None:
        """Notes how the session ended.

        Args:
            state: finished, stopped or failed.
            error: Why it failed.
        """
        self.session |= {'ended': now(), 'state': state, 'until': [self.run.epoch, self.run.step]}
        if error is not None:
            self.session['error'] = f'{type(error).__name__}: {error}'
        self.write()

    def write(self) -> None:
        write_text(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + '\n')


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec='seconds')


def describe(device: torch.device) -> str:
    """A device's name, and its product's where it has one."""
    return f'{device} ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else str(device)


def size_of(images: Samples) -> int | None:
    """How many images there are; None where a stream does not say."""
    try:
        return len(images)
    except TypeError:
        return None


def write_evaluation(
    output: Path, epoch: int, scores: AnyScores, classes: list[str], mistakes: Sequence[Mistake], images: Samples
) -> None:
    """Keeps an evaluation.

    Args:
        output: Folder of the run.
        epoch: That was evaluated, from 1.
        scores: That were found.
        classes: Names of the classes.
        mistakes: The images of the largest losses.
        images: What was evaluated.
    """
    content: dict[str, Any] = {'epoch': epoch, **scores.to_dict(), 'per_class': scores.per_class(classes)}
    if isinstance(scores, Scores):
        met, counts = scores.met()
        # rows of true class, guess and images, of those that there are
        there = counts.nonzero()
        content['confusion'] = torch.cat([met[there], counts[there[:, 0], there[:, 1], None]], 1).tolist()
    content['worst'] = [
        {**row.to_dict(images.name(row.index), classes), 'picture': picture(images, row.index)} for row in mistakes
    ]
    write_text(output / EVALUATION, json.dumps(content, ensure_ascii=False))


def picture(images: Samples, index: int) -> str | None:
    """A small picture as a data URI; None where there is none to be had."""
    if isinstance(images, StreamDataset):
        return None
    try:
        pixels = as_image(decode(images.read(index), images.channels))
    except (UnreadableImageError, OSError):
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy().squeeze())
    kind = 'PNG' if max(image.size) <= DRAWN else 'JPEG'
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'
