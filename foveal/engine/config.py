"""What can be asked of a run: the fields are the flags of the command line and the keys of the YAML files.

Nothing here imports torch, so that `foveal --help` is quick.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainConfig:
    """Train a model on labelled images."""

    data: str = ''
    """A folder of class folders, or torch/NAME: cifar10, cifar100, fashion_mnist, kmnist, mnist."""
    data_root: str | None = None
    """Where a named set lies: a folder of torchvision, or of the IDX files themselves."""
    download: bool = False
    """Fetch a named set that is absent."""
    train_split: str = 'train'
    """Split to train on."""
    val_split: str = 'validation'
    """Split to evaluate on after each epoch."""
    val_fraction: float = 0.0
    """Above 0: hold this share of each class of the training images out, and evaluate on it."""
    class_map: str | None = None
    """File with the names of the classes, one a line, in the order of their indices."""

    model: str = 'resnet50'
    """Architecture, or architecture.tag; `foveal models` lists them."""
    pretrained: bool = False
    """Start from published weights."""
    checkpoint: str | None = None
    """Start from the weights in this file."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Further options of the architecture, such as {drop_path_rate: 0.1}."""
    in_chans: int | None = None
    """Channels of the images: 1 (grey) or 3 (RGB). The model's own where absent."""
    img_size: int | None = None
    """Side of the input. The model's own where absent."""
    mean: tuple[float, ...] | None = None
    """Mean of the pixels, in [0, 1]. The model's own where absent."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the pixels. The model's own where absent."""
    crop_pct: float | None = None
    """Share of the image that the evaluation crop keeps. The model's own where absent."""
    crop_mode: str | None = None
    """Evaluation crop: center, squash or border. The model's own where absent."""
    interpolation: str | None = None
    """Resampling in evaluation. The model's own where absent."""

    no_aug: bool = False
    """Train on the images as evaluation sees them."""
    train_crop_mode: str = 'rrc'
    """rrc (random resized crop), pad (pad and crop, for small images) or none."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the area that rrc keeps."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Range of the aspect ratio that rrc keeps."""
    crop_padding: int = 4
    """Zero padding on each side before the pad crop."""
    hflip: float = 0.5
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of an upside-down flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation."""
    train_interpolation: str = 'random'
    """Resampling of rrc; random: bilinear or bicubic for each image."""
    mixup: float = 0.0
    """Alpha of mixup; 0: none."""
    smoothing: float = 0.1
    """Label smoothing."""

    epochs: int = 100
    """Length of the run, warm-up included."""
    batch_size: int = 128
    """Images a step and process."""
    grad_accum: int = 1
    """Steps whose gradients make one update."""
    opt: str = 'adamw'
    """Optimizer."""
    lr: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 0.05
    """Weight decay of kernels and matrices."""
    momentum: float | None = None
    """Momentum, of the optimizers that have it."""
    clip_grad: float | None = None
    """Longest gradient (norm over all parameters)."""
    sched: str = 'cosine'
    """Schedule of the learning rate: cosine or constant."""
    warmup_epochs: float = 5.0
    """Epochs in which the learning rate rises; parts of an epoch count."""
    warmup_lr: float = 1e-5
    """Learning rate that the warm-up starts from."""
    min_lr: float = 0.0
    """Learning rate that cosine ends at."""

    seed: int = 42
    """Decides the first weights, the order of the images and every random choice."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    precision: str = 'fp32'
    """fp32, or bf16 (autocast)."""
    channels_last: bool | None = None
    """Memory format of images and kernels. Absent: on for CUDA and CPU, where small ResNets train a quarter faster."""
    grad_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time."""
    threads: int = 0
    """Threads of a process on the CPU; 0: what torch chooses."""
    workers: int = 2
    """Processes a process that read images; 0: none."""

    output: str = ''
    """Folder of the run. Absent: runs/MODEL-DATA."""
    resume: str = ''
    """A run's folder or its last.safetensors to go on from; auto: the output folder's, where there is one."""
    save_updates: int = 0
    """Also save every so many updates within an epoch; 0: after epochs only."""


@dataclass
class ValidateConfig:
    """Measure a trained model on labelled images."""

    source: str
    """A run's folder, a checkpoint of a run, or the name of a model."""
    data: str = ''
    """A folder of class folders, or torch/NAME."""
    data_root: str | None = None
    """Where a named set lies."""
    download: bool = False
    """Fetch a named set that is absent."""
    split: str = 'validation'
    """Split to measure on."""
    val_fraction: float = 0.0
    """Above 0: measure on the share of the training images that training with this value held out."""
    class_map: str | None = None
    """File with the names of the classes in the order of their indices, for a model that does not hold them."""
    pretrained: bool = False
    """Load the published weights of a model given by name."""
    checkpoint: str | None = None
    """Weights file for a model given by name."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Further options of a model given by name."""
    img_size: int | None = None
    """Side of the input. The model's own where absent."""
    crop_pct: float | None = None
    """Share of the image that the crop keeps. The model's own where absent."""
    crop_mode: str | None = None
    """center, squash or border. The model's own where absent."""
    interpolation: str | None = None
    """Resampling. The model's own where absent."""
    batch_size: int = 256
    """Images a step."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    precision: str = 'fp32'
    """fp32, or bf16 (autocast)."""
    threads: int = 0
    """Threads on the CPU; 0: what torch chooses."""
    workers: int = 2
    """Processes that read images; 0: none."""
    per_class: bool = False
    """Print a table of the classes too."""
    output: str | None = None
    """Also write the results to this JSON file."""


@dataclass
class PredictConfig:
    """Name what is on pictures."""

    source: str
    """A run's folder, a checkpoint of a run, or the name of a model."""
    images: list[str]
    """Image files, and folders that are searched for images."""
    topk: int = 5
    """Guesses an image."""
    format: str = 'table'
    """table, csv or json."""
    output: str | None = None
    """Write to this file instead of the screen."""
    sheet: str | None = None
    """Also draw the images with their labels to this picture (.png, .pdf, .svg)."""
    class_map: str | None = None
    """File with the names of the classes, for a model that does not hold them."""
    pretrained: bool = False
    """Load the published weights of a model given by name."""
    checkpoint: str | None = None
    """Weights file for a model given by name."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Further options of a model given by name."""
    img_size: int | None = None
    """Side of the input. The model's own where absent."""
    crop_pct: float | None = None
    """Share of the image that the crop keeps. The model's own where absent."""
    crop_mode: str | None = None
    """center, squash or border. The model's own where absent."""
    interpolation: str | None = None
    """Resampling. The model's own where absent."""
    batch_size: int = 64
    """Images a step."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    precision: str = 'fp32'
    """fp32, or bf16 (autocast)."""
    threads: int = 0
    """Threads on the CPU; 0: what torch chooses."""
    workers: int = 0
    """Processes that read images; 0: none."""


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON and YAML hold it: tuples as lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def check_train(config: TrainConfig) -> None:
    """Refuses what cannot work before anything is read or built.

    Raises:
        ValueError: Names the field, its value and what is legal.
    """
    if not config.data:
        raise ValueError('data is missing: give --data FOLDER or --data torch/NAME')
    for name in ('epochs', 'batch_size', 'grad_accum'):
        if getattr(config, name) < 1:
            raise ValueError(f'{name} must be at least 1, got {getattr(config, name)}')
    for name in ('seed', 'workers', 'threads', 'save_updates', 'mixup', 'weight_decay', 'warmup_lr', 'min_lr'):
        if getattr(config, name) < 0:
            raise ValueError(f'{name} must be at least 0, got {getattr(config, name)}')
    if not config.lr > 0:
        raise ValueError(f'lr must be above 0, got {config.lr}')
    if config.clip_grad is not None and not config.clip_grad > 0:
        raise ValueError(f'clip_grad must be above 0, got {config.clip_grad}')
    if not 0 <= config.smoothing < 1:
        raise ValueError(f'smoothing must be in [0, 1), got {config.smoothing}')
    if not 0 <= config.warmup_epochs < config.epochs:
        raise ValueError(f'warmup_epochs must be in [0, epochs={config.epochs}), got {config.warmup_epochs}')
    check_precision(config.precision)


def check_precision(precision: str) -> None:
    """Refuse an unknown precision."""
    if precision not in ('fp32', 'bf16'):
        raise ValueError(f'precision must be fp32 or bf16, got {precision!r}')
