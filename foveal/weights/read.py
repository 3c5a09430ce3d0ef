"""Weights files read as plain tensors: safetensors by memory map, torch files without unpickling, JAX arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, strided

from foveal.weights import numpy_file, strict_json, torch_file

# that checkpoints keep the weights under, in one another too
WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'encoder', 'classy_state_dict', 'base_model')
MOST_WRAPPERS = 4  # around each other: a file may say that it holds itself
PARTS = {'trunk', 'heads'}  # of a model, as VISSL saves them
PREFIXES = ('_orig_mod.', 'module.')  # of compiled and distributed models
INDEX = 'model.safetensors.index.json'  # of weights in several files, as the hub has it
NAMES = ('model.safetensors', INDEX, 'pytorch_model.bin')  # of a published model, by preference
SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin', '.pth.tar', '.npz')


class WeightsError(ValueError, RuntimeError):
    """Weights that cannot be had, read, or fitted to the model."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, with the prefixes of compiled and distributed models taken off.

    A safetensors file and a torch file of today's format are private memory maps: nothing is copied, pages are read
    when they are used, and what is changed stays in memory. Every file counts as a stranger's: nothing in it is run,
    and it cannot ask for much more memory than it is large.

    Args:
        path: a safetensors file, an index of several (`*.index.json`), a torch file of plain tensors, or `.npz`.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: a file that is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no weights at {path}')
    try:
        loaded = load(path)
    except WeightsError:
        raise
    except Exception as error:  # a hostile file makes the readers raise anything: RecursionError, KeyError, MemoryError
        said = str(error) or type(error).__name__
        raise WeightsError(f'cannot read weights from {path}: {said[:500]}') from error
    loaded = unwrapped(loaded)
    if not isinstance(loaded, Mapping) or not all(is_weight(*item) for item in loaded.items()):
        raise WeightsError(f'{path} does not hold named tensors, nor under any of {", ".join(WRAPPERS)}')
    weights = {bare(name): tensor for name, tensor in loaded.items()}
    if len(weights) < len(loaded):
        raise WeightsError(f'{path} has weights whose names differ by {" or ".join(PREFIXES)} alone')
    size = path.stat().st_size
    for name, tensor in loaded.items():
        # a few bytes can be shown as a tensor of any size, until somebody copies it
        if path.suffix != '.json' and tensor.numel() * tensor.element_size() > max(
            size, 8 * size * (path.suffix == '.npz')
        ):
            raise WeightsError(f'{name} in {path} is of shape {tuple(tensor.shape)}, which is larger than the file')
    return weights


def load(path: Path) -> Any:
    """What a file holds, by the reader that its name calls for."""
    if path.name.endswith('.index.json'):
        return load_shards(path)
    if path.suffix == '.safetensors':
        check_header(path)
        return load_file(path)
    return numpy_file.load(path) if path.suffix == '.npz' else torch_file.load(path)


def unwrapped(loaded: Any) -> Any:
    """What checkpoints keep weights in taken off: wrappers, and parts of a model that lie side by side."""
    for _ in range(MOST_WRAPPERS):
        if not isinstance(loaded, Mapping):
            break
        loaded = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    if isinstance(loaded, Mapping) and set(loaded) == PARTS and all(isinstance(v, Mapping) for v in loaded.values()):
        return {f'{part}.{name}': value for part, named in loaded.items() for name, value in named.items()}
    return loaded


def is_weight(name: object, value: object) -> bool:
    """Whether an entry of a file is a named tensor with values in memory."""
    return (
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == strided and value.device.type == 'cpu'
    )


def bare(name: str) -> str:
    """A weight's name without the prefixes of wrappers."""
    while name.startswith(PREFIXES):
        name = name.split('.', 1)[1]
    return name


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is no strict JSON; the library checks shapes, types and positions.

    Raises:
        ValueError: the header is longer than the file or than any real one, or not strict JSON.
    """
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if not 2 <= length <= min(path.stat().st_size - 8, strict_json.LARGEST):
            raise ValueError(f'its header says to be of {length} bytes, in a file of {path.stat().st_size}')
        strict_json.parse(file.read(length))


def load_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of several safetensors files that an index names; they lie beside it."""
    files = shards(path)
    weights: dict[str, Tensor] = {}
    for shard in dict.fromkeys(files.values()):
        beside = path.parent / shard
        if not beside.is_file():
            raise WeightsError(f'{path} names {shard}, which is not there')
        check_header(beside)
        weights |= {name: tensor for name, tensor in load_file(beside).items() if files.get(name) == shard}
    if missing := [name for name in files if name not in weights]:
        raise WeightsError(f'{path} names {missing[0]} in {files[missing[0]]}, which does not hold it')
    return weights


def shards(path: Path) -> dict[str, str]:
    """An index of shards: the name of each weight, and of the file that holds it.

    Raises:
        ValueError: not an index, or one that names a file anywhere but beside it.
    """
    found = strict_json.read(path).get('weight_map')
    if not isinstance(found, dict) or not found:
        raise ValueError('it has no weight_map')
    for file in found.values():
        if not isinstance(file, str) or not is_plain(file) or not file.endswith('.safetensors'):
            raise ValueError(f'it names {file!r}, and only safetensors files beside it are read')
    return found


def is_plain(name: str) -> bool:
    """Whether a name from a stranger's file can only mean a file beside it."""
    return not set(name) & set('/\\:\0') and name not in ('', '.', '..')


def find_weights(folder: str | Path) -> Path:
    """The weights file of a folder: of one of `NAMES`, or else the only one with a known ending.

    Raises:
        FileNotFoundError: there is none.
        WeightsError: there are several, and nothing says which one is meant.
    """
    folder = Path(folder)
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES)) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f'no weights in {folder}; looked for {", ".join(NAMES)} and *{", *".join(SUFFIXES)}')
    if len(found) > 1:
        raise WeightsError(f'{folder} has several weights files: {", ".join(p.name for p in found)}; name one of them')
    return found[0]
