"""What can be asked of a run: the fields are the flags of the command line and the keys of the YAML files.

Nothing here imports torch, so that `foveal --help` is quick.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PRECISIONS = ('fp32', 'tf32', 'medium', 'bf16', 'fp16', 'pure-bf16', 'pure-fp16')
STATISTICS = ('reduce', 'broadcast', 'none')
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune')
CLIP_MODES = ('norm', 'value', 'agc')
NONFINITE = ('stop', 'skip')
DISTILL_TYPES = ('logit', 'feature', 'token')


@dataclass
class TrainConfig:
    """Train a model on labelled images."""

    data: str = ''
    """A folder of class folders, tars or shards; a .tar, .csv, .tsv, .parquet or .npz; or torch/NAME, hfds/ID,
    hfids/ID, wds/PLACE, tfds/NAME (docs/data.md)."""
    data_root: str | None = None
    """Where a named set lies, or is kept; where the files of a table lie."""
    download: bool = False
    """Fetch a named set that is absent."""
    train_split: str = 'train'
    """Split to train on."""
    val_split: str = 'validation'
    """Split to evaluate on after each epoch."""
    val_fraction: float = 0.0
    """Above 0: hold this share of each class of the training images out, and evaluate on it."""
    class_map: str | None = None
    """File with the names of the classes, one a line, in the order of their indices; or JSON."""
    input_key: str | None = None
    """Where the image is: a column, an array, endings of files (jpg;png)."""
    target_key: str | None = None
    """Where the label is: a column, an array, the ending of a shard's member, json/label."""
    target_format: str | None = None
    """How labels are to be read where they look otherwise: indices (each image lists its classes), multihot (a 0 or 1
    for every class) or numbers (which are then learnt as such)."""
    train_num_samples: int | None = None
    """Samples of a stream of training images that does not say."""
    val_num_samples: int | None = None
    """Samples of a stream of images to evaluate on."""
    epoch_repeats: int = 0
    """Above 1, an epoch sees every training image so often, augmented differently each time."""

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
    """rrc (random resized crop), rkrc or rkrr (keep the ratio, crop in the middle or anywhere), pad (pad and crop, for
    small images) or none."""
    scale: tuple[float, float] | None = None
    """Range of the area that rrc keeps, or of the sides in rkrc and rkrr. Absent: 0.08 to 1, or 0.8 to 1."""
    ratio: tuple[float, float] | None = None
    """Range of the aspect ratio in rrc, or of its change in rkrc and rkrr. Absent: 3/4 to 4/3, or 0.9 to 1/0.9."""
    crop_padding: int = 4
    """Zero padding on each side before the pad crop."""
    hflip: float = 0.5
    """Probability of a left-right flip."""
    vflip: float = 0.0
    """Probability of an upside-down flip."""
    aa: str | None = None
    """Policy of random operations: rand-m9-mstd0.5-inc1, augmix-m5, v0, 3a, ta_wide ... (docs/augmentation.md)."""
    color_jitter: float | tuple[float, ...] = 0.0
    """Strength of random brightness, contrast and saturation; or one for each; or four, with the hue's. A policy takes
    its place."""
    color_jitter_prob: float | None = None
    """Probability of the jitter. Absent: always."""
    force_color_jitter: bool = False
    """Jitter after a policy too."""
    grayscale_prob: float = 0.0
    """Probability of a grey image."""
    gaussian_blur_prob: float = 0.0
    """Probability of a blurred image."""
    train_interpolation: str = 'random'
    """Resampling of the crops and of a policy's operations; random: bilinear or bicubic for each image."""
    reprob: float = 0.0
    """Probability of random erasing."""
    remode: str = 'const'
    """What is erased becomes: const (the mean colour), rand (a random colour) or pixel (noise)."""
    recount: int = 1
    """Most boxes erased of an image."""
    aug_repeats: float = 0.0
    """Above 1: every image comes so often in a row, augmented differently, and an epoch shows fewer images."""
    aug_splits: int = 0
    """Above 1: every image of a batch comes so often, clean first, then augmented, for the agreement that loss jsd asks
    for (AugMix); the step has so many times the images."""
    split_bn: bool = False
    """With aug_splits: clean images and each further view have batch norms of their own; evaluations, and the weights
    that are kept, have those of the clean ones."""
    mixup: float = 0.0
    """Alpha of mixup; 0: none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0: none. With both, each batch has one or the other."""
    cutmix_minmax: tuple[float, float] | None = None
    """Range of the sides of cutmix's boxes as shares of the image's, instead of cutmix."""
    mixup_prob: float = 1.0
    """Probability of mixing a batch at all."""
    mixup_switch_prob: float = 0.5
    """Probability of cutmix where both are on."""
    mixup_mode: str = 'batch'
    """batch (one draw for a batch), pair, elem (one for each pair, or image) or half (pairs become one image)."""
    mixup_off_epoch: int = 0
    """Mix until this epoch; 0: to the end."""
    smoothing: float | None = None
    """Label smoothing. Absent: 0.1 with one label an image, else 0."""
    loss: str = ''
    """With one label an image ce, bce, asl, poly or jsd; with several bce, asl, poly, twoway, zlpr or db; of numbers
    mse, l1 or huber. Absent: the first of these."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """Further options of the loss, such as {bce_target_thresh: 0.2} or {huber_delta: 0.5}."""
    class_weight: str | float | list[float] | None = None
    """Weight of each class in the loss: inv_freq or effective_num, which go by how often it occurs in the training
    images; numbers; or a .json file of them."""
    pos_weight: str | float | list[float] | None = None
    """Weight of a class's presence over its absence, in bce and in asl of several labels: neg_pos, which goes by the
    counts; a number, or one for each class; or a .json file."""
    weight_options: dict[str, Any] = field(default_factory=dict)
    """power of inv_freq and neg_pos, beta of effective_num, max_weight."""
    class_stats: str | None = None
    """JSON file with pos_counts and num_samples, in place of counting; a stream cannot be counted beforehand."""
    threshold: float = 0.5
    """Of several labels an image: the probability from which on one counts as named, in F1."""
    teacher: str | None = None
    """Learn from this model too: a run's folder, a checkpoint of a run, or the name of a published model."""
    distill: str = 'logit'
    """What is learnt from the teacher: logit, feature or token (of deit*_distilled_*)."""
    distill_options: dict[str, Any] = field(default_factory=dict)
    """temperature, task_weight, distill_weight; of token also kind: soft or hard."""

    epochs: int = 100
    """Length of the run, warm-up included."""
    batch_size: int | Literal['auto'] = 128
    """Images a step and process. auto: as many as memory holds, at most 1024; found by trial before the run, and kept
    when it goes on."""
    val_batch_size: int | None = None
    """Images a batch and process in the evaluations. Absent: batch_size."""
    grad_accum: int = 1
    """Steps whose gradients make one update."""
    opt: str = 'adamw'
    """Optimizer."""
    lr: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 0.05
    """Weight decay of kernels and matrices."""
    momentum: float | None = None
    """Momentum, of the optimizers that have it. Absent: 0.9."""
    layer_decay: float | None = None
    """Learning rate of each depth over that of the next one, such as 0.75. Absent: one rate for all."""
    opt_options: dict[str, Any] = field(default_factory=dict)
    """Further options of the optimizer, such as {eps: 1.0e-6}."""
    show_groups: bool = False
    """Print the parameter groups with their learning rates and decays, and stop."""
    clip_grad: float | None = None
    """Longest gradient."""
    clip_mode: str = 'norm'
    """norm (over all parameters), value (of each element) or agc (of each unit, as a share of its weights' norm)."""
    ema: float = 0.0
    """Above 0: evaluate and keep a running mean of the weights with this decay, such as 0.9998."""
    ema_options: dict[str, Any] = field(default_factory=dict)
    """warmup: true lets the decay rise; gamma, power, min_decay, update_after, device, dtype."""
    freeze: list[str] = field(default_factory=list)
    """Wildcards on the names of parameters that do not learn, such as stem* or stages.0.*."""
    head_epochs: int = 0
    """In so many epochs at the start only the classifier learns; then all does that freeze leaves."""
    sched: str = 'cosine'
    """Schedule of the learning rate: cosine, tanh, poly, step, multistep, constant, wsd, rsqrt, plateau or none."""
    warmup_epochs: float | None = None
    """Epochs in which the learning rate rises; parts of an epoch count. Absent: 5, or a tenth of a shorter run."""
    warmup_lr: float = 1e-5
    """Learning rate that the warm-up starts from."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    sched_options: dict[str, Any] = field(default_factory=dict)
    """Further options of the schedule, such as {decay_epochs: 30}; `foveal schedule` draws it."""

    seed: int = 42
    """Decides the first weights, the order of the images and every random choice."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    precision: str = 'fp32'
    """fp32; tf32 or medium (torch's names: high, medium), whose float32 products round their factors; bf16 or fp16
    (autocast: weights stay float32); pure-bf16 or pure-fp16 (weights and all else)."""
    compile: str = ''
    """Compile the model and its loss: default, reduce-overhead or max-autotune. Absent: no. Takes minutes to start."""
    channels_last: bool | None = None
    """Memory format of images and kernels. Absent: on for CUDA and CPU, where small ResNets train a quarter faster."""
    shard: bool = False
    """Of several processes each holds its share of weights, gradients, optimizer and running mean (docs/distributed.md)
    instead of all."""
    sync_bn: bool = False
    """Batch norms take their statistics over the images of all processes."""
    dist_bn: str = 'reduce'
    """Before evaluating and saving, running statistics of batch norms become their mean over all processes (reduce) or
    the first one's (broadcast); none: each keeps its own."""
    grad_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time."""
    threads: int = 0
    """Threads of a process on the CPU; 0: what torch chooses."""
    workers: int = 2
    """Processes a process that read images; 0: none."""
    bad_samples: str = 'raise'
    """Images that cannot be read: raise (stop at the first) or skip (leave out, list in bad_samples.json)."""
    bad_limit: int = 100
    """How many different images a process may skip before the run stops after all."""
    nonfinite: str = 'stop'
    """A loss or gradient that is NaN or infinite: stop (and name the images and the module), or skip (the update is not
    made)."""
    nonfinite_limit: int = 10
    """How many updates may be skipped before the run stops after all."""

    output: str = ''
    """Folder of the run. Absent: runs/MODEL-DATA."""
    resume: str = ''
    """A run's folder or its last.safetensors to go on from; auto: the output folder's, where there is one."""
    save_updates: int = 0
    """Also save every so many updates within an epoch; 0: after epochs only."""
    keep: int = 0
    """Keep the weights of so many best epochs, under checkpoints; `foveal average` makes one model of them."""
    metric: str = ''
    """What makes an epoch the best: a column of metrics.csv, such as val_loss. Absent: val_top1 with one label an
    image, val_map with several, val_r2 of numbers."""
    val_interval: int = 1
    """Evaluate after every so many epochs, and after the last. Only epochs that were evaluated can be the best."""
    milestones: list[int] = field(default_factory=list)
    """Epochs whose whole run is kept under checkpoints for ever, such as 100,200; a run can go on from each."""
    stop_epoch: int = 0
    """Stop after this epoch, in the middle of the schedule, which keeps its length; 0: at its end."""
    evaluate_plain: bool = False
    """With ema: evaluate the weights themselves as well, in columns of their own (plain_loss, plain_top1 ...)."""

    log_updates: int = 50
    """Updates between two rows of updates.csv: loss, learning rate, images a second; 0: none. Without a terminal they
    are printed too."""
    track: list[str] = field(default_factory=list)
    """Send metrics, configuration and pictures to tensorboard, wandb or mlflow; several with commas between."""
    track_project: str = 'foveal'
    """Project of wandb, experiment of mlflow."""
    track_name: str = ''
    """What the run is called there. Absent: the name of its folder."""
    track_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of each, such as {wandb: {mode: offline, tags: [a]}, mlflow: {tracking_uri: runs/mlflow}}."""


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
    for name in ('epochs', 'batch_size', 'val_batch_size', 'val_interval', 'grad_accum'):
        if getattr(config, name) not in ('auto', None) and getattr(config, name) < 1:
            raise ValueError(f'{name} must be at least 1, got {getattr(config, name)}')
    at_least_zero = ('seed', 'workers', 'threads', 'save_updates', 'keep', 'weight_decay', 'warmup_lr', 'min_lr')
    for name in (*at_least_zero, 'mixup_off_epoch', 'nonfinite_limit', 'aug_splits', 'stop_epoch', 'log_updates'):
        if getattr(config, name) < 0:
            raise ValueError(f'{name} must be at least 0, got {getattr(config, name)}')
    if not config.lr > 0:
        raise ValueError(f'lr must be above 0, got {config.lr}')
    if config.compile not in ('', *COMPILE_MODES):
        raise ValueError(f'compile must be one of {", ".join(COMPILE_MODES)}, got {config.compile!r}')
    if config.clip_mode not in CLIP_MODES:
        raise ValueError(f'clip_mode must be one of {", ".join(CLIP_MODES)}, got {config.clip_mode!r}')
    if config.dist_bn not in STATISTICS:
        raise ValueError(f'dist_bn must be one of {", ".join(STATISTICS)}, got {config.dist_bn!r}')
    if config.nonfinite not in NONFINITE:
        raise ValueError(f'nonfinite must be one of {", ".join(NONFINITE)}, got {config.nonfinite!r}')
    if config.distill not in DISTILL_TYPES:
        raise ValueError(f'distill must be one of {", ".join(DISTILL_TYPES)}, got {config.distill!r}')
    if not 0 <= config.ema < 1:
        raise ValueError(f'ema must be in [0, 1), got {config.ema}')
    if config.clip_grad is not None and not config.clip_grad > 0:
        raise ValueError(f'clip_grad must be above 0, got {config.clip_grad}')
    if config.aug_splits > 1 and (config.mixup or config.cutmix or config.cutmix_minmax):
        raise ValueError('aug_splits shows views of the same images, which mixup and cutmix would mix; leave one out')
    if config.loss == 'jsd' and config.aug_splits < 2:
        raise ValueError(f'loss jsd compares views of an image: give aug_splits, such as 3, got {config.aug_splits}')
    if config.split_bn and config.aug_splits < 2:
        raise ValueError(f'split_bn is for views of an image: give aug_splits, such as 3, got {config.aug_splits}')
    if config.split_bn and config.sync_bn:
        raise ValueError('split_bn and sync_bn are batch norms of different kinds; leave one out')
    if config.sched == 'plateau' and config.val_interval > 1:
        raise ValueError(f'sched plateau follows the score of every epoch; val_interval must be 1, got '
                         f'{config.val_interval}')  # fmt: skip
    if not 0 < config.threshold < 1:
        raise ValueError(f'threshold must be in (0, 1), got {config.threshold}')
    if config.smoothing is not None and not 0 <= config.smoothing < 1:
        raise ValueError(f'smoothing must be in [0, 1), got {config.smoothing}')
    if any(epoch < 1 for epoch in config.milestones):
        raise ValueError(f'milestones must be epochs, counted from 1, got {config.milestones}')
    if config.evaluate_plain and not config.ema:
        raise ValueError('evaluate_plain is for runs with ema; without it the weights themselves are evaluated')
    if not 0 <= config.head_epochs <= config.epochs:
        raise ValueError(f'head_epochs must be in [0, epochs={config.epochs}], got {config.head_epochs}')
    if config.head_epochs and config.shard:
        raise ValueError('head_epochs cannot change what learns of a model that shard has cut up; leave one out')
    if config.warmup_epochs is not None and not 0 <= config.warmup_epochs < config.epochs:
        raise ValueError(f'warmup_epochs must be in [0, epochs={config.epochs}), got {config.warmup_epochs}')
    check_precision(config.precision)


def check_precision(precision: str) -> None:
    """Refuse an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be one of {", ".join(PRECISIONS)}, got {precision!r}')
