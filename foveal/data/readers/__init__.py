"""Sources of images: each reader gives encoded samples by index, and the names of files and classes."""

from foveal.data.readers.arrays import ArrayReader
from foveal.data.readers.base import Reader, StreamReader, StreamSample
from foveal.data.readers.files import FileReader

__all__ = ['ArrayReader', 'FileReader', 'Reader', 'StreamReader', 'StreamSample']
