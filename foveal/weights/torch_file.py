"""Files of `torch.save`, read as data: tensors by memory map, and nothing that a pickle could ask for besides."""

import argparse
import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

# All that a file of plain tensors calls. `weights_only=True` also allows constructors that take a size, so that a file
# of a hundred bytes asks for any amount of memory: these are refused.
CALLS = {
    'collections OrderedDict',
    'torch._utils _rebuild_parameter',
    'torch._utils _rebuild_tensor',
    'torch._utils _rebuild_tensor_v2',
    'torch Size',
    'torch device',
    'argparse Namespace',  # the options of a training run beside its weights
}
# Types of tensors as a pickle names them, and their bytes a value.
STORAGES = {
    **{f'torch {kind}Storage': 1 for kind in ('Bool', 'Byte', 'Char')},
    **{f'torch {kind}Storage': 2 for kind in ('Half', 'BFloat16', 'Short')},
    **{f'torch {kind}Storage': 4 for kind in ('Float', 'Int')},
    **{f'torch {kind}Storage': 8 for kind in ('Double', 'Long', 'ComplexFloat')},
    'torch ComplexDoubleStorage': 16,
}
# Operations that put nothing on a pickle's stack but take from it, or mark it.
SILENT = {'BINPUT', 'LONG_BINPUT', 'MARK', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'}
MOST_OPCODES = 1_000_000  # a tensor takes about 40
LARGEST_PICKLE = 32 << 20  # bytes, without the tensors
PROTOCOLS = range(2, 6)  # of pickles


def load(path: Path) -> Any:
    """The object in a file of `torch.save`, its tensors mapped where the format allows.

    Args:
        path: a zip archive (torch 1.6 and later), whose tensors become private maps of the file, or a file of the
            older format, which is read.

    Raises:
        ValueError: a file that is damaged, or whose pickle asks for anything but tensors and plain values.
        Exception: what `torch.load` raises for damage of its own kinds.
    """
    with path.open('rb') as file:
        zipped = file.read(4) == b'PK\x03\x04'
        file.seek(0)
        if zipped:
            check_archive(file, path.stat().st_size)
        else:
            check_pickles(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:  # torch's own words advise to run the file
        raise ValueError('its pickle is damaged, or holds more than tensors and plain values') from None


def check_archive(file: BinaryIO, size: int) -> None:
    """Refuse an archive that `torch.save` did not write: it compresses nothing, and a tensor's memory is all there.

    Raises:
        ValueError: another archive. Mapped, a tensor whose member is too short would go on in what follows.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for member in members.values():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                raise ValueError(f'{member.filename} is compressed, which torch.save never does')
        if len(members) < len(archive.infolist()):
            raise ValueError('two members of the archive have one name')
        pickles = [name for name in members if name.split('/')[1:] == ['data.pkl']]
        if len(pickles) != 1 or members[pickles[0]].file_size > LARGEST_PICKLE:
            raise ValueError('it is not an archive of torch.save')
        top = pickles[0].split('/')[0]
        for key, length in storages(io.BytesIO(archive.read(pickles[0]))):
            stored = members.get(f'{top}/data/{key}')
            if stored is None or stored.file_size != length:
                raise ValueError(f'the memory of tensor {key} should be {length} bytes, and is not')


def check_pickles(file: BinaryIO) -> None:
    """Refuse a file of the format from before torch 1.6 whose pickles are not those of `torch.save`.

    They are magic number, version, system, object, and the keys of the storages that follow.

    Raises:
        ValueError: another file. A tensor whose storage is not among the keys would hold whatever was in memory.
    """
    for _ in range(3):
        for _ in operations(file):
            pass
    named = {key for key, _ in storages(file, fields=6)}
    if named != {str(argument) for name, argument in operations(file) if name.endswith('UNICODE')}:
        raise ValueError('the tensors that its pickle names are not those that follow')


def storages(file: BinaryIO, fields: int = 5) -> Iterator[tuple[str, int]]:
    """The storages that a pickle names: their keys, and how many bytes they are.

    A pickle names one by ('storage', type, key, device, number of values); in the older format None stands behind.
    """
    memory: dict[int, Any] = {}
    values: list[Any] = []
    for name, argument in operations(file):
        if name in ('BINPUT', 'LONG_BINPUT'):
            memory[argument] = values[-1] if values else None
        elif name in ('BINGET', 'LONG_BINGET'):
            values.append(memory.get(argument))
        elif name == 'BINPERSID':
            what, kind, key, _, count = values[-fields:][:5] if len(values) >= fields else [None] * 5
            if what != 'storage' or kind not in STORAGES or not isinstance(count, int):
                raise ValueError('its pickle names the memory of a tensor in another way than torch.save does')
            yield str(key), count * STORAGES[kind]
            values.clear()
        elif name in SILENT:
            continue
        else:
            values = [*values[-9:], argument]


def operations(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Go through a pickle without running it: the name and argument of each operation.

    Raises:
        ValueError: it is damaged, too long, or calls what is not in `CALLS`.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST_OPCODES:
            raise ValueError(f'its pickle has more than {MOST_OPCODES} operations')
        if opcode.name in ('STACK_GLOBAL', 'INST', 'OBJ', 'EXT1', 'EXT2', 'EXT4'):
            raise ValueError(f'its pickle calls by {opcode.name}, which torch.save never does')
        if opcode.name == 'PROTO' and argument not in PROTOCOLS:
            raise ValueError(f'its pickle is of version {argument}')
        if opcode.name == 'GLOBAL' and argument not in CALLS and argument not in STORAGES:
            raise ValueError(f'its pickle asks for {str(argument).replace(" ", ".")}, and only plain tensors are read')
        yield opcode.name, argument
