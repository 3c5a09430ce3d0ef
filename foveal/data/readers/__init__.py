"""Sources of images: each reader gives decoded samples by index, and the names of files and classes."""

from foveal.data.readers.arrays import ArrayReader
from foveal.data.readers.base import Reader
from foveal.data.readers.folder import FolderReader
from foveal.data.readers.named import open_named

__all__ = ['ArrayReader', 'FolderReader', 'Reader', 'open_named']
