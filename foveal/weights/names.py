"""Names of models that are not in the zoo: repositories on the hub, and folders."""

from pathlib import Path
from typing import Any

from foveal.pretrained import PretrainedCfg
from foveal.registry import UnknownModelError
from foveal.weights.config import ModelConfig, read_config
from foveal.weights.read import find_weights

HUB, FOLDER = ('hf-hub', 'hf_hub'), 'local-dir'


def split_source(model_name: str) -> tuple[str | None, str]:
    """('hf-hub', 'org/repo') of 'hf-hub:org/repo'; the source is None for a name of the zoo.

    Raises:
        UnknownModelError: another source, or a path without one.
    """
    source, colon, rest = model_name.partition(':')
    if not colon and '/' not in model_name:
        return None, model_name
    if not colon:
        raise UnknownModelError(
            f'{model_name!r} is no name of a model; a folder is called local-dir:{model_name}, a repository '
            f'hf-hub:{model_name}, and a file of weights goes with a name as checkpoint_path'
        )
    if source not in (*HUB, FOLDER):
        raise UnknownModelError(f'{model_name!r}: models come from hf-hub:ORG/REPO or local-dir:FOLDER, not {source}:')
    return ('hf-hub' if source in HUB else FOLDER), rest


def find_config(model_name: str, cache_dir: str | Path | None = None) -> ModelConfig | None:
    """What is published with the model behind `hf-hub:org/repo[@revision]` or `local-dir:folder`.

    Args:
        model_name: the name; None comes back for one of the zoo.
        cache_dir: where downloads are kept.

    Returns:
        The architecture, its options, and the record of its weights, which says where they lie.

    Raises:
        FileNotFoundError: a folder without config.json.
        WeightsError: a config that cannot be had or read.
        UnknownModelError: a path or a repository without its prefix.
    """
    source, rest = split_source(model_name)
    if source is None:
        return None
    if source == FOLDER:
        config = read_config(Path(rest) / 'config.json')
        where: dict[str, Any] = {'file': str(find_weights(rest))}
    else:
        from foveal import hub

        repository, _, revision = rest.partition('@')
        config = read_config(hub.download(repository, 'config.json', revision or None, cache_dir))
        where = {'hf_hub_id': rest}
    record = PretrainedCfg.from_dict({**config.pretrained_cfg, **where, 'source': source})
    options = {name: frozen(value) for name, value in config.model_args.items()}
    return ModelConfig(config.architecture, options, record)


def frozen(value: Any) -> Any:
    """Lists of JSON as tuples, as options of models are."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value
