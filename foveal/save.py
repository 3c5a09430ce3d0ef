"""Models saved as they are published: a folder of weights, config and card that foveal, timm and the hub's tools read.

model.safetensors   the weights under their published names; of a large model in parts, with an index
config.json         the architecture and its options, preprocessing, labels
README.md           the model card
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from foveal.card import write_card
from foveal.data import resolve_data_config
from foveal.files import replacing_folder
from foveal.hub import LOGIN
from foveal.models.backbone import Backbone, configure
from foveal.pretrained import PretrainedCfg
from foveal.registry import find_variant
from foveal.weights.config import LABELS, SOURCES
from foveal.weights.read import INDEX, NAMES, SUFFIXES, WeightsError

SHARD = '50GB'  # the largest file that the hub takes; timm reads no weights in parts
REGULARISERS = ('drop_rate', 'drop_path')  # matter to training alone
CARD = 'README.md'


def save_pretrained(
    model: Backbone,
    folder: str | Path,
    *,
    architecture: str | None = None,
    label_names: Sequence[str] | None = None,
    label_descriptions: Mapping[str, str] | None = None,
    card: Mapping[str, Any] | None = None,
    max_shard_size: int | str = SHARD,
) -> Path:
    """Save a model for `create_model('local-dir:FOLDER', pretrained=True)`, here or with timm.

    The folder takes the place of an old one of that name whole or not at all. Of the old one, files that are no part of
    a saved model stay, and so does a card, unless `card` is given.

    Args:
        model: its weights, options and preprocessing (`model.pretrained_cfg`) are saved.
        folder: made if need be.
        architecture: name of the architecture; needed where the model was not built by name.
        label_names: one name for each class, in order; those of `model.pretrained_cfg` if not given.
        label_descriptions: name -> description.
        card: words for the model card: `license`, `description`, `datasets`, `paper`, `metrics` (name -> value).
        max_shard_size: weights above it are saved in parts: a number of bytes, or such as '5GB'.

    Returns:
        The folder.

    Raises:
        ValueError: a model that its options do not describe (parts of it were changed after it was built), labels that
            are not as many as the classes, or an unknown word for the card.
        OSError: the folder cannot be written; an old one is untouched.
    """
    has_card = card is None and (Path(folder) / CARD).is_file()
    config = describe(model, architecture, label_names, label_descriptions)
    text = (Path(folder) / CARD).read_text(encoding='utf-8') if has_card else write_card(config, card or {})
    weights = storable(model.state_dict())
    with replacing_folder(folder, belongs) as temporary:
        save_parts(temporary, weights, config, text, max_shard_size)
    return Path(folder)


def push_to_hub(
    model: Backbone,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = 'Add model',
    create_pr: bool = False,
    token: str | None = None,
    architecture: str | None = None,
    label_names: Sequence[str] | None = None,
    label_descriptions: Mapping[str, str] | None = None,
    card: Mapping[str, Any] | None = None,
    max_shard_size: int | str = SHARD,
) -> str:
    """Save a model to a repository on the Hugging Face hub, which is made if need be.

    Args:
        model: as in `save_pretrained`.
        repo_id: `owner/name`.
        private: make a new repository private.
        revision: branch to commit to; it is made if need be.
        commit_message: of the commit.
        create_pr: open a pull request instead.
        token: of the hub; the one that is logged in if not given.
        architecture, label_names, label_descriptions, card, max_shard_size: as in `save_pretrained`. A card that the
            repository has stays, unless `card` is given.

    Returns:
        The address of the commit.

    Raises:
        ValueError: as in `save_pretrained`.
        WeightsError: the hub cannot be reached, or refuses.
    """
    config = describe(model, architecture, label_names, label_descriptions)
    text = write_card(config, card or {}, f'hf-hub:{repo_id}' + (f'@{revision}' if revision else ''))
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_parts(Path(folder), storable(model.state_dict()), config, text, max_shard_size)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            has_card = card is None and hub.file_exists(repo_id, CARD, revision=revision)
            if revision:
                hub.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                ignore_patterns=[CARD] if has_card else None,
            )
        except HFValidationError as error:
            raise WeightsError(f'{repo_id!r} is no name of a repository, which is owner/name') from error
        except LocalTokenNotFoundError as error:
            raise WeightsError(f'cannot push to {repo_id}: {LOGIN}') from error
        except (HfHubHTTPError, OSError) as error:
            status = getattr(getattr(error, 'response', None), 'status_code', None)
            raise WeightsError(
                f'cannot push to {repo_id}: {f"not allowed; {LOGIN}" if status in (401, 403) else error}'
            ) from error
    return commit.commit_url


def belongs(name: str) -> bool:
    """Whether a file of an old folder is of the saved model, so that it goes with the old one."""
    return name in ('config.json', CARD, *NAMES) or name.endswith(('.index.json', *SUFFIXES))


def describe(
    model: Backbone,
    architecture: str | None = None,
    label_names: Sequence[str] | None = None,
    label_descriptions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A model's `config.json`, in the form that timm writes and reads."""
    if not isinstance(model, Backbone):
        raise ValueError(f'model must be a model of foveal as create_model makes it, got {type(model).__name__}')
    name = architecture or model.pretrained_cfg.architecture
    if not name:
        raise ValueError(f'this {type(model).__name__} was not built by name; give the architecture to save it as')
    options = options_over(model, name)
    record = saved_record(model)
    names = label_names if label_names is not None else record.label_names
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f'label_names has {len(names)} names; the model has {model.num_classes} classes')
    labels = {'label_names': names, 'label_descriptions': label_descriptions or record.label_descriptions}
    pretrained = {k: v for k, v in record.items() if k not in (*SOURCES, *LABELS, 'architecture')}
    return {
        'architecture': name,
        'num_classes': model.num_classes,
        'num_features': model.num_features,
        'global_pool': model.cfg.global_pool,
        **{key: plain(key, value) for key, value in labels.items() if value is not None},
        'model_args': {key: plain(key, value) for key, value in options.items()},
        'pretrained_cfg': {key: plain(key, value) for key, value in pretrained.items()},
    }


def saved_record(model: Backbone) -> PretrainedCfg:
    """The record of a model's weights, with the preprocessing for the model as it is now."""
    record, size = model.pretrained_cfg, getattr(model.cfg, 'img_size', None)
    size = (size, size) if isinstance(size, int) else size
    now = resolve_data_config({'in_chans': model.in_chans, 'img_size': tuple(size) if size else None}, record)
    known = {field.name for field in fields(PretrainedCfg)}
    return PretrainedCfg.from_dict(
        {
            **record,
            **{key: value for key, value in dict(now).items() if key in known},
            'num_classes': model.num_classes,
            'label_names': record.label_names if model.num_classes == record.num_classes else None,
            'label_offset': None,  # the classes that it leaves out are no longer in the weights
        }
    )


def options_over(model: Backbone, architecture: str) -> dict[str, Any]:
    """The options by which a model differs from its architecture's own, and the three that are always said.

    Raises:
        ValueError: they do not describe the model.
    """
    variant = find_variant(architecture)
    if variant.cls is not type(model):
        raise ValueError(f'{architecture} is not built by {type(model).__name__}; give another architecture')
    usual = configure(type(model).Config, None, dict(variant.options))
    options = {
        field.name: getattr(model.cfg, field.name)
        for field in fields(model.cfg)
        if field.init
        if field.name in ('in_chans', 'num_classes', 'global_pool')
        or (getattr(model.cfg, field.name) != getattr(usual, field.name) and not trains_only(field.name))
    }
    with torch.device('meta'):
        described = type(model).unfilled(model.cfg).state_dict()
    own = model.state_dict()
    changed = [
        n for n in {**own, **described} if n not in own or n not in described or own[n].shape != described[n].shape
    ]
    if changed:
        raise ValueError(
            f'the options of this model do not describe it: {changed[0]} was changed after it was built; '
            f'its weights can be saved with safetensors.torch.save_file'
        )
    return options


def trains_only(option: str) -> bool:
    """Whether an option matters to training alone."""
    return option.endswith(REGULARISERS[0]) or REGULARISERS[1] in option


def plain(name: str, value: Any) -> Any:
    """A value as JSON has it; ValueError names the option that it cannot hold."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name} is {value!r}, which config.json cannot hold') from error


def storable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as safetensors stores them: on the CPU, contiguous, and each in memory of its own."""
    result, seen = {}, set()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.device.type != 'meta' and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result


def save_parts(
    folder: Path, weights: dict[str, Tensor], config: Mapping[str, Any], card: str, max_shard_size: int | str
) -> None:
    """Write weights, config and card to a folder; weights above `max_shard_size` in several files with an index."""
    split = split_torch_state_dict_into_shards(weights, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: weights[name] for name in names}, folder / file, {'format': 'pt'})
    if split.is_sharded:
        index = {'metadata': split.metadata, 'weight_map': split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + '\n', encoding='utf-8')
    (folder / 'config.json').write_text(json.dumps(config, indent=2, allow_nan=False) + '\n', encoding='utf-8')
    (folder / CARD).write_text(card, encoding='utf-8')
