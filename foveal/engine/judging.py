"""The options of every command that runs a trained model over images. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class JudgingConfig:
    """Which model, how images become its input, and what it runs on."""

    source: str
    """A run's folder, a checkpoint of a run, or the name of a model."""
    pretrained: bool = False
    """Load the published weights of a model given by name."""
    checkpoint: str | None = None
    """Weights file for a model given by name."""
    ema: bool = False
    """Of a run's last.safetensors, take the running mean of the weights."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Further options of a model given by name."""
    class_map: str | None = None
    """File with the names of the classes in the order of their indices, for a model that does not hold them."""
    img_size: int | None = None
    """Side of the input. The model's own where absent."""
    use_test_size: bool = False
    """Take the larger input and crop that some published weights are meant to be evaluated at."""
    crop_pct: float | None = None
    """Share of the image that the crop keeps. The model's own where absent."""
    crop_mode: str | None = None
    """center, squash or border. The model's own where absent."""
    crop_border_pixels: int = 0
    """Cut so many pixels off each edge of the image first."""
    interpolation: str | None = None
    """Resampling. The model's own where absent."""
    tta: str = ''
    """Mean of the probabilities of several views: flip (and mirrored), five (corners and middle of the resized image)
    or ten (these and mirrored)."""
    test_pool: bool = False
    """Of an input larger than the published one, classify every window of the published size, and pool the logits."""
    batch_size: int = 256
    """Images a step. Where memory runs out, it is halved and the run goes on."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    devices: int = 1
    """CUDA devices of this process that share each batch."""
    precision: str = 'fp32'
    """fp32, tf32, medium, bf16, fp16, pure-bf16 or pure-fp16, as of `foveal train`."""
    channels_last: bool = False
    """Memory format of images and kernels."""
    compile: str = ''
    """Compile the model: default, reduce-overhead or max-autotune. Absent: no. Takes minutes to start."""
    threads: int = 0
    """Threads on the CPU; 0: what torch chooses."""
    workers: int = 2
    """Processes that read images; 0: none."""
    bad_samples: str = 'raise'
    """Images that cannot be read: raise (stop at the first) or skip (leave out, and list them)."""
    bad_limit: int = 100
    """How many different images a process may skip before the run stops after all."""
    input_key: str | None = None
    """Where the image is: a column, an array, endings of files (jpg;png)."""
    data_root: str | None = None
    """Where a named set lies, or is kept; where the files of a table lie."""
    download: bool = False
    """Fetch a named set that is absent."""
    num_samples: int | None = None
    """Samples of a stream that does not say."""


@dataclass(kw_only=True)
class LabelledConfig(JudgingConfig):
    """Which labelled images, besides."""

    data: str = ''
    """A folder of class folders, or torch/NAME and the like, as of `foveal train` (docs/data.md)."""
    split: str = 'validation'
    """Split to measure on."""
    val_fraction: float = 0.0
    """Above 0: measure on the share of the training images that training with this value held out."""
    target_key: str | None = None
    """Where the label is: a column, an array, the ending of a shard's member, json/label."""
    target_format: str | None = None
    """How labels are to be read: indices, multihot or numbers."""


@dataclass(kw_only=True)
class ValidateConfig(LabelledConfig):
    """Measure trained models on labelled images."""

    exclude: str = ''
    """Of several models: wildcards, with commas between, on those to leave out."""
    valid_labels: str = ''
    """Score some of the model's classes only: present (those that the data have), imagenet-a, imagenet-r, or a
    file of their names or indices."""
    real_labels: str | None = None
    """File of all labels of ImageNet's validation images (ReaL), to score by them too."""
    threshold: float | None = None
    """Of several labels an image: the probability from which on one counts as named. Absent: the run's own, or 0.5."""
    calibration: bool = False
    """Find the temperature too; keeps all logits in memory."""
    per_class: bool = False
    """Print a table of the classes too."""
    report: str | None = None
    """Folder for pictures and tables: confusion.png, top_losses.png, reliability.png, per_class.csv; of several models,
    one folder each."""
    output: str | None = None
    """Also write the results to this .json or .csv file. Of several models it is written after each, and a second run
    goes on with those that are missing."""


@dataclass(kw_only=True)
class PredictConfig(JudgingConfig):
    """Name what is on pictures."""

    images: list[str]
    """Image files, folders that are searched for images, and wildcards; or one data set, as of `foveal train`."""
    split: str = 'validation'
    """Split of a data set."""
    topk: int = 5
    """Guesses an image; 0: none."""
    scores: str = 'probability'
    """What a guess is given with: probability or logit."""
    multi_label: bool = False
    """Classes do not exclude each other: the probability of each is its own (sigmoid). Known of a run."""
    threshold: float = 0.0
    """Leave out guesses of a lower probability."""
    label_type: str = 'description'
    """What a class is called: name (of ImageNet the WordNet id), description, detailed (both) or index."""
    include_index: bool = False
    """Give the indices of the classes too."""
    all_scores: bool = False
    """Give the scores of all classes too, in the order of their indices."""
    embeddings: bool = False
    """Give what the classifier sees, too."""
    cam: str | None = None
    """Folder for pictures of where the first guess was seen (Grad-CAM)."""
    cam_class: str | None = None
    """The class, by name or index, to look for instead of the first guess."""
    cam_level: int | None = None
    """Level of the features that the map is of, as of forward_intermediates. Absent: the last that the guess depends
    on."""
    attention: str | None = None
    """Folder for pictures of where a plain vision transformer looked (attention rollout)."""
    format: str = ''
    """table, csv, json, jsonl (one object a line) or parquet. Absent: by the ending of the output, else table."""
    output: str | None = None
    """Write to this file instead of the screen. It is there when all is done; until then OUTPUT.part grows."""
    resume: bool = False
    """Go on with the OUTPUT.part of a run that was stopped."""
    sheet: str | None = None
    """Also draw the first images with their labels to this picture (.png, .pdf, .svg)."""
    batch_size: int = 64
    """Images a step. Where memory runs out, it is halved and the run goes on."""
    workers: int = 0
    """Processes that read images; 0: none."""


TTA = ('', 'flip', 'five', 'ten')


def check_judging(config: JudgingConfig) -> None:
    """Refuses what cannot work before anything is read or built.

    Raises:
        ValueError: Names the field, its value and what is legal.
    """
    from foveal.engine.config import COMPILE_MODES, check_precision

    check_precision(config.precision)
    if config.tta not in TTA:
        raise ValueError(f'tta must be one of {", ".join(TTA[1:])}, got {config.tta!r}')
    if config.compile not in ('', *COMPILE_MODES):
        raise ValueError(f'compile must be one of {", ".join(COMPILE_MODES)}, got {config.compile!r}')
    for name, least in (('batch_size', 1), ('devices', 1), ('workers', 0), ('threads', 0), ('crop_border_pixels', 0)):
        if getattr(config, name) < least:
            raise ValueError(f'{name} must be at least {least}, got {getattr(config, name)}')
