"""Images in, batches out: sources, preprocessing, augmentation, loading."""

from foveal.data.class_map import read_class_map
from foveal.data.dataset import ImageDataset
from foveal.data.factory import create_loader
from foveal.data.images import UnreadableImageError, read_image
from foveal.data.loader import Loader
from foveal.data.mixup import Mixup, soft_targets
from foveal.data.preprocess import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    Preprocess,
    resolve_data_config,
    resolve_model_data_config,
)
from foveal.data.random_erasing import RandomErasing
from foveal.data.source import create_dataset
from foveal.data.transforms import Augment, create_transform

__all__ = [
    'IMAGENET_DEFAULT_MEAN',
    'IMAGENET_DEFAULT_STD',
    'Augment',
    'ImageDataset',
    'Loader',
    'Mixup',
    'Preprocess',
    'RandomErasing',
    'UnreadableImageError',
    'create_dataset',
    'create_loader',
    'create_transform',
    'read_class_map',
    'read_image',
    'resolve_data_config',
    'resolve_model_data_config',
    'soft_targets',
]
