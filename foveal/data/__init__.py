"""Images in, batches out: sources, preprocessing, augmentation, loading."""

from foveal.data.dataset import ImageDataset, create_dataset
from foveal.data.images import UnreadableImageError, read_image
from foveal.data.loader import Loader, create_loader
from foveal.data.mixup import mixup, soft_targets
from foveal.data.preprocess import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    Preprocess,
    resolve_data_config,
    resolve_model_data_config,
)
from foveal.data.transforms import Augment, create_transform

__all__ = [
    'IMAGENET_DEFAULT_MEAN',
    'IMAGENET_DEFAULT_STD',
    'Augment',
    'ImageDataset',
    'Loader',
    'Preprocess',
    'UnreadableImageError',
    'create_dataset',
    'create_loader',
    'create_transform',
    'mixup',
    'read_image',
    'resolve_data_config',
    'resolve_model_data_config',
    'soft_targets',
]
