"""Second readers of weights files, written from the formats' descriptions: what a file means, for the fuzzer to hold
foveal's reading against. They check nothing and know no limits."""

import ast
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
SAFETENSORS = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'I64': '<i8', 'I32': '<i4', 'U8': '<u1', 'BOOL': '?'}
STORAGES = {'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'HalfStorage': '<f2', 'LongStorage': '<i8'}
STORAGES |= {'IntStorage': '<i4', 'ByteStorage': '<u1', 'BoolStorage': '?', 'ShortStorage': '<i2', 'CharStorage': '<i1'}


def safetensors(path: Path) -> Arrays:
    """https://github.com/huggingface/safetensors: 8 bytes of length, a JSON header, the data."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], 'little')
    header = json.loads(raw[8:start])
    header.pop('__metadata__', None)
    result = {}
    for name, entry in header.items():
        first, last = entry['data_offsets']
        values = np.frombuffer(raw[start + first : start + last], SAFETENSORS[entry['dtype']])
        result[name] = values.reshape(entry['shape'])
    return result


def npz(path: Path) -> Arrays:
    """NumPy's NEP 1: a zip archive of arrays, each with its description as a Python literal."""
    result = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            raw = archive.read(name)
            wide = raw[6] > 1
            (length,) = struct.unpack('<I' if wide else '<H', raw[8 : 12 if wide else 10])
            start = (12 if wide else 10) + length
            said = ast.literal_eval(raw[start - length : start].decode('latin1'))
            values = np.frombuffer(raw[start:], np.dtype(said['descr']))
            result[name.removesuffix('.npy')] = values.reshape(said['shape'], order='FC'[not said['fortran_order']])
    return result


class Nothing:
    """What a call gives that is of no matter for the tensors."""

    def __init__(self, *_: Any) -> None:
        """Anything is taken and nothing done."""


class Unpickler(pickle.Unpickler):
    """A pickle of tensors, in which every call but three gives nothing: nothing of the file is run."""

    storages: list[tuple[str, str]]

    def find_class(self, module: str, name: str) -> Any:
        if name == 'OrderedDict':
            return dict
        if name == '_rebuild_tensor_v2':
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if name == '_rebuild_parameter':
            return lambda tensor, *_: tensor
        return name if name.endswith('Storage') else Nothing

    def persistent_load(self, key: Any) -> tuple[str, str]:
        return str(key[2]), STORAGES[key[1]]


def torch_zip(path: Path) -> Arrays:
    """A file of torch 1.6 and later: a zip archive of a pickle and one stored member a tensor's memory."""
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].split('/')[0]
        tree = Unpickler(io.BytesIO(archive.read(f'{top}/data.pkl'))).load()
        members = {}
        for member in archive.infolist():
            at = member.header_offset
            start = at + 30 + sum(struct.unpack('<HH', raw[at + 26 : at + 30]))
            members[member.filename.rpartition('/')[2]] = raw[start : start + member.file_size]
    return built(tree, members)


def torch_old(path: Path) -> Arrays:
    """A file from before torch 1.6: five pickles, then for each storage its length and its memory."""
    with path.open('rb') as file:
        _, _, _, tree, keys = (Unpickler(file).load() for _ in range(5))
        raw = file.read()
    kinds = {storage[0]: np.dtype(storage[1]) for storage, *_ in flat(tree).values()}
    members, at = {}, 0
    for key in keys:
        length = int.from_bytes(raw[at : at + 8], 'little') * kinds[key].itemsize
        members[key] = raw[at + 8 : at + 8 + length]
        at += 8 + length
    return built(tree, members)


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """The named tensors, which the fuzzer's files keep at the top or under `state_dict`."""
    return tree.get('state_dict', tree)


def built(tree: dict[str, Any], members: dict[str, bytes]) -> Arrays:
    """Tensors from (storage, offset, size, stride) and the memory of the storages."""
    result = {}
    for name, ((key, kind), offset, size, stride) in flat(tree).items():
        values = np.frombuffer(members[key], kind)[offset:]
        steps = [step * values.itemsize for step in stride]
        result[name] = np.lib.stride_tricks.as_strided(values, size, steps).copy()
    return result
