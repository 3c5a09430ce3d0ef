"""TensorFlow data sets, streamed; TensorFlow reads the records and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveal.data.labels import Encoder
from foveal.data.readers.base import StreamSample
from foveal.data.readers.hf import find_feature, find_split

SHARD = 1024  # samples that are read in one go


class TfdsStream:
    """A split of a TensorFlow data set in slices of `SHARD` samples, each of which can be read alone.

    Args:
        name: As `tfds.builder` takes it, `mnist` or `imagenet2012:5.1.0`.
        root: Folder of the prepared data sets.
        split: A split's name, or a slice of one, `train[:10%]`.
        download: Fetch and prepare it where it is absent.
        encoder: Makes targets of the labels, given the names of the classes.
        input_key, target_key: Features; else `image` and `label`.

    Raises:
        FileNotFoundError: No such split, or data that are not prepared, and `download` is off.
        ModuleNotFoundError: tensorflow_datasets is not installed.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None,
        split: str,
        download: bool,
        encoder: Encoder,
        input_key: str | None,
        target_key: str | None,
    ):
        try:
            import tensorflow_datasets as tfds
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f'tfds/{name} needs tensorflow-datasets and tensorflow: pip install tensorflow-datasets tensorflow',
                name='tensorflow_datasets',
            ) from None
        try:
            self.builder = tfds.builder(name, data_dir=None if root is None else str(root))
        except tfds.core.DatasetNotFoundError as error:
            raise FileNotFoundError(f'tfds/{name} is unknown: {str(error).splitlines()[0]}') from error
        if download:
            self.builder.download_and_prepare()
        info = self.builder.info
        if not info.splits:
            raise FileNotFoundError(f'tfds/{name} is not prepared in {info.data_dir}; download it with --download')
        base, bracket, rest = split.partition('[')
        self.split = find_split(f'tfds/{name}', base, list(info.splits)) + bracket + rest
        features = info.features
        self.image = find_feature(name, features, input_key, ('image',), 'input_key')
        self.label = find_feature(name, features, target_key, ('label', 'labels'), 'target_key')
        names = getattr(features[self.label], 'names', None)
        known = Encoder(encoder.where, encoder.numbering, names, encoder.target_format)
        self.classes, self.task, self.find = known.streaming()
        instruction = tfds.core.ReadInstruction.from_spec(self.split).to_absolute(info.splits)[0]
        self.base, self.start = instruction.splitname, instruction.from_ or 0
        self.stop: int = info.splits[self.base].num_examples if instruction.to is None else instruction.to
        self.count: int | None = self.stop - self.start
        self.shards = [str(start) for start in range(self.start, self.stop, SHARD)]
        self.origin = f'tfds/{name}:{self.split}'

    def iterate(self, shard: int, start: int = 0) -> Iterator[StreamSample]:
        """The samples of a slice from number `start` on."""
        import tensorflow_datasets as tfds

        first = int(self.shards[shard])
        last = min(first + SHARD, self.stop)
        if first + start >= last:
            return
        rows = self.builder.as_dataset(
            split=f'{self.base}[{first + start}:{last}]',
            shuffle_files=False,
            decoders={self.image: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )
        for number, row in enumerate(tfds.as_numpy(rows), first + start):
            label: Any = row[self.label]
            yield StreamSample(str(number), row[self.image], self.find(label.tolist(), str(number)))
