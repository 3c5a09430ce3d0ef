"""The pictures that go with predictions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from foveal.data import ImageDataset, UnreadableImageError
from foveal.data.images import decode
from foveal.data.loader import Batch
from foveal.data.preprocess import Preprocess
from foveal.data.stream import StreamDataset
from foveal.engine.judge import Judge
from foveal.engine.judging import PredictConfig
from foveal.engine.maps import attention_rollout, grad_cam, overlay, plain_attentions
from foveal.engine.predict import Prediction
from foveal.errors import near
from foveal.files import replacing
from foveal.models.backbone import Backbone

SHEET_IMAGES = 48


class Artist:
    """Draws maps beside the images as the model sees them, and a sheet of the first images with their guesses.

    Args:
        config: What is asked for.
        judge: The model itself, with nothing around it.
        names: What its classes are called.
        dataset: The images.

    Raises:
        ValueError: Maps that the model does not have, or a class that is not there.
    """

    def __init__(
        self,
        config: PredictConfig,
        judge: Judge,
        names: Sequence[str],
        dataset: ImageDataset | StreamDataset,
    ):
        self.config, self.judge, self.names, self.dataset = config, judge, names, dataset
        self.number = 0  # of the next image; those of an earlier run count
        self.shown: list[tuple[int, Prediction]] = []
        self.chosen = None if config.cam_class is None else class_of(config.cam_class, judge, names)
        if config.cam and not (isinstance(judge.model, Backbone) and judge.model.num_classes):
            raise ValueError(f'cam needs a model of foveal with a classifier; {config.source} is none')
        if config.attention:
            plain_attentions(judge.model)
        if config.sheet and isinstance(dataset, StreamDataset):
            raise ValueError('a sheet reads its images again, which a stream does not allow')

    def draw(self, rows: Sequence[Prediction], batch: Batch | None, outputs: Tensor | None) -> None:
        """Takes a batch's predictions, images and outputs."""
        numbers = range(self.number, self.number + len(rows))
        self.number += len(rows)
        if self.config.sheet and len(self.shown) < SHEET_IMAGES:
            read = [(number, row) for number, row in zip(numbers, rows, strict=True) if row.error is None]
            self.shown += read[: SHEET_IMAGES - len(self.shown)]
        if batch is None or outputs is None or not (self.config.cam or self.config.attention):
            return
        seen = [(number, row.file) for number, row in zip(numbers, rows, strict=True) if row.error is None]
        # of a stream that is gone on with, the first images of a batch may have been done
        images, outputs = batch.images[-len(seen) :], outputs[-len(seen) :]
        model: nn.Module = self.judge.model
        if self.config.tta:
            high, wide = self.judge.preprocess.input_size[1:]
            top, left = (images.shape[-2] - high) // 2, (images.shape[-1] - wide) // 2
            images = images[..., top : top + high, left : left + wide]
        pixels = as_pixels(images, self.judge.preprocess)
        assert isinstance(model, Backbone)
        if self.config.cam:
            guesses = outputs[:, : len(self.names)].argmax(1).clone()
            classes = guesses if self.chosen is None else torch.full_like(guesses, self.chosen)
            self.save(self.config.cam, seen, pixels, grad_cam(model, images, classes, self.config.cam_level))
        if self.config.attention:
            maps = attention_rollout(model, images.clone())
            # some of every patch reaches the output: what differs is to be seen
            low = maps.amin((1, 2), keepdim=True)
            self.save(self.config.attention, seen, pixels, (maps - low) / (1 - low).clamp(min=1e-12))

    def save(self, folder: str, seen: Sequence[tuple[int, str]], pixels: Tensor, maps: Tensor) -> None:
        """Writes pictures as NUMBER-NAME.png."""
        for (number, file), image, heat in zip(seen, pixels, maps, strict=True):
            path = Path(folder) / f'{number:06d}-{Path(file).stem}.png'
            with replacing(path) as temporary:
                overlay(image.numpy(), heat.cpu().numpy()).save(temporary)

    def finish(self) -> None:
        """Draws the sheet."""
        if not self.config.sheet or not self.shown:
            return
        from foveal.engine import figures

        images, files, guesses = [], [], []
        for number, row in self.shown:
            try:
                images.append(figures.as_image(decode(self.dataset.read(number), 3)))
            except UnreadableImageError:
                continue
            files.append(row.file)
            guesses.append([(guess.label, guess.score) for guess in row.guesses])
        with replacing(self.config.sheet) as temporary:
            figures.sheet(images, files, guesses).savefig(temporary, dpi=130)


def as_pixels(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalised images (batch, channels, height, width) as uint8 (batch, height, width, 3), on the CPU."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = images.detach().float().cpu() * std + mean
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def class_of(wanted: str, judge: Judge, names: Sequence[str]) -> int:
    """The output that a name or an index means.

    Raises:
        ValueError: None.
    """
    known = {name: i for i, name in enumerate(names)} | judge.numbering
    index = known.get(wanted, int(wanted) if wanted.isdigit() else -1)
    if not 0 <= index < len(names):
        raise ValueError(f'cam_class {wanted!r} is no class of the model{near(wanted, known)}')
    return index
