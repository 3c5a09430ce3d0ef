"""Damaged and hostile files by the thousand: each is read right or refused with a WeightsError, quickly and in little
memory.

    make fuzz                                     10,000 files
    python -m tests.fuzz --files 300 --seed 1

What is read must be what a second reader makes of the same bytes (tests/plain_readers.py). The process's memory is
bounded, so that a file that asks for much ends the run.
"""

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from foveal.weights import WeightsError, read_weights
from foveal.weights.config import read_config
from tests import plain_readers

SECONDS = 2.0  # of processor time a file
MEMORY = 512 << 20  # bytes that the run may take beyond what it has when it begins
ADDRESSES = 4 << 30  # bytes of address space beyond that: what is asked for, used or not

Mutation = Callable[[random.Random, bytes], bytes]

# Values that break what trusts them, for numbers and anything else in a header.
ODD: list[Any] = [0, -1, 1, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 1e308, float('nan'), float('inf'), True]
ODD += [
    None,
    '',
    'x' * 5000,
    '../../etc/passwd',
    '/etc/passwd',
    'a\0b',
    '\ud800',
    [],
    {},
    [[]],
    [2**40, 2**40],
    {'a': {}},
]


def tensors() -> dict[str, torch.Tensor]:
    """A few weights of several shapes and types."""
    draw = torch.Generator().manual_seed(0)
    return {
        'stem.weight': torch.randn(4, 3, 2, 2, generator=draw),
        'stem.bias': torch.randn(4, generator=draw),
        'norm.steps': torch.tensor(3),
        'head.weight': torch.randn(5, 4, generator=draw).half(),
        'mask': torch.tensor([True, False, True]),
    }


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, 'w', compression) as archive:
        warnings.simplefilter('ignore')  # of names that stand twice
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def seed_files() -> dict[str, bytes]:
    """One right file of each kind."""
    weights, files = tensors(), {}
    files['safetensors'] = save(weights, {'format': 'pt'})
    for kind, modern in (('pth', True), ('old.pth', False)):
        target = io.BytesIO()
        nested = {'state_dict': weights, 'epoch': 3, 'args': argparse.Namespace(lr=0.1), 'metric': [0.5]}
        torch.save(nested, target, _use_new_zipfile_serialization=modern)
        files[kind] = target.getvalue()
    for kind, write in (('npz', np.savez), ('packed.npz', np.savez_compressed)):
        target = io.BytesIO()
        write(target, **{name: tensor.numpy() for name, tensor in weights.items()})
        files[kind] = target.getvalue()
    record = {'tag': 'a', 'input_size': [3, 96, 96], 'mean': [0.5, 0.5, 0.5], 'crop_pct': 0.9, 'pool_size': None}
    record |= {'first_conv': 'stem.0', 'fixed_input_size': False, 'paper_ids': ['a', 'b'], 'num_classes': 3}
    config = {'architecture': 'test_vit', 'num_classes': 3, 'label_names': ['a', 'b', 'c']}
    config |= {
        'label_descriptions': {'a': 'x'},
        'model_args': {'depth': 2, 'img_size': [96, 96]},
        'pretrained_cfg': record,
    }
    files['config.json'] = json.dumps(config).encode()
    index = {name: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, name in enumerate(weights)}
    files['index.json'] = json.dumps({'metadata': {'total_size': 1}, 'weight_map': index}).encode()
    return files


# Mutations of any bytes.


def flipped(rng: random.Random, data: bytes) -> bytes:
    """A few bits turned; half of the time near the beginning or the end, where structure lies."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        span = rng.choice([len(data), len(data), min(300, len(data)), min(40, len(data))])
        at = rng.randrange(span) if rng.random() < 0.7 else len(data) - 1 - rng.randrange(span)
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The file up to some byte."""
    return data[: rng.randrange(len(data))]


def spliced(rng: random.Random, data: bytes) -> bytes:
    """A piece taken out, doubled, zeroed, or replaced by noise."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 4, 30, 300]))
    piece = rng.choice([b'', data[start:stop] * 2, bytes(stop - start), rng.randbytes(stop - start)])
    return data[:start] + piece + data[stop:]


# Mutations that keep the structure around what they change.


def tree_changed(rng: random.Random, tree: Any) -> Any:
    """A tree of JSON with one value, key or branch changed."""
    if isinstance(tree, (dict, list)) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        copy = tree.copy()
        if rng.random() < 0.1:
            copy.pop(key)
        elif isinstance(tree, dict) and rng.random() < 0.1:
            copy[str(rng.choice(ODD))[:50]] = copy.pop(key)
        else:
            copy[key] = tree_changed(rng, tree[key])
        return copy
    return rng.choice([*ODD, tree, [tree], {'a': tree}])


def json_text(rng: random.Random, tree: Any) -> bytes:
    """JSON text of a changed tree; sometimes with a name twice, nested a thousand deep, or not in UTF-8."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        tree = tree_changed(rng, tree)
    text = json.dumps(tree)
    way = rng.randrange(12)
    if way == 0 and text.startswith('{"'):
        text = text[:-1] + ', ' + text[1:]
    if way == 1:
        depth = rng.choice([100, 1000, 100_000])
        text = text.replace('3', '[' * depth + ']' * depth, 1)
    if way == 2:
        text = text.replace('3', '9' * rng.choice([400, 5000]), 1)
    return text.encode('utf-16' if way == 3 else 'utf-8', 'surrogatepass')


def header_changed(rng: random.Random, data: bytes) -> bytes:
    """safetensors with another header, or another length of it."""
    length = int.from_bytes(data[:8], 'little')
    header = json_text(rng, json.loads(data[8 : 8 + length]))
    said = rng.choice([len(header)] * 6 + [0, 1, length, len(data), 2**24, 2**40, 2**63, 2**64 - 1])
    return said.to_bytes(8, 'little') + header + data[8 + length :]


def json_changed(rng: random.Random, data: bytes) -> bytes:
    """A JSON file with something changed."""
    return json_text(rng, json.loads(data))


NAMES = [b'os\nsystem', b'builtins\neval', b'builtins\nbytearray', b'torch\nFloatTensor', b'torch\nUntypedStorage']
NAMES += [b'torch.storage\nUntypedStorage', b'torch._utils\n_rebuild_sparse_tensor', b'collections\nCounter']
NAMES += [b'torch._utils\n_rebuild_meta_tensor_no_storage', b'torch\nDoubleStorage', b'torch\nQInt8Storage']


def pickle_changed(rng: random.Random, data: bytes) -> bytes:
    """A pickle with another call, another number, or a few bytes changed."""
    way = rng.randrange(4)
    if way == 0:
        old = rng.choice([b'torch._utils\n_rebuild_tensor_v2', b'torch\nFloatStorage', b'argparse\nNamespace'])
        return data.replace(old, rng.choice(NAMES), rng.choice([1, 100]))
    if way == 1:  # BININT1 becomes a large LONG1
        number = rng.choice([2**40, 2**62, -1, 10**11]).to_bytes(9, 'little', signed=True)
        places = [i for i, byte in enumerate(data) if byte == ord('K')]
        at = rng.choice(places)
        return data[:at] + b'\x8a\x09' + number + data[at + 2 :]
    return rng.choice([flipped, spliced])(rng, data)


def archive_changed(rng: random.Random, data: bytes) -> bytes:
    """A zip archive with right checksums and another member: changed, compressed, renamed, dropped, or a bomb."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    pickles = [n for n in members if n.endswith('data.pkl')]
    way = rng.randrange(8)
    if way <= 3 and pickles:
        members[pickles[0]] = pickle_changed(rng, members[pickles[0]])
    elif way <= 2:
        members[name] = array_changed(rng, members[name])
    elif way == 4:
        members[rng.choice(['../../x', '/x', name + 'x', 'archive/data.pkl'])] = members.pop(name)
    elif way == 5:
        members.pop(name)
    elif way == 6:
        members[name] = bytes(rng.choice([10**3, 10**6, 10**8]))
        return packed(members, zipfile.ZIP_DEFLATED)
    else:
        members[name] = rng.choice([flipped, cut, spliced])(rng, members[name] or b'x')
    return packed(members, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


def array_changed(rng: random.Random, data: bytes) -> bytes:
    """An array of NumPy with another type or shape in its header."""
    start = data.index(b'{')
    header, rest = data[start : data.index(b'\n', start)], data[data.index(b'\n', start) :]
    types = [b"'|O'", b"'<f8'", b"'|S9'", b"'>f4'", b"'<c8'", b"'|V1000000000'", b"[('a', '<f4')]", b'None']
    shapes = [b'(100000000000,)', b'(-1,)', b'(2, 2)', b'()', b'(4, 0, 99999999999999)', b'([],)', b'(True,)']
    header = rng.choice(
        [
            header.replace(header[header.index(b':') + 2 : header.index(b',')], rng.choice(types), 1),
            header[: header.index(b"'shape': ") + 9] + rng.choice(shapes) + b'}',
            header.replace(b'False', b'True'),
            header.replace(b'{', b'{' * rng.choice([2, 50, 5000])),
        ]
    )
    length = len(header) + 1
    return data[:6] + b'\x01\x00' + length.to_bytes(2, 'little') + header + rest


STRUCTURED: dict[str, Mutation] = {
    'safetensors': header_changed,
    'pth': archive_changed,
    'old.pth': pickle_changed,
    'npz': archive_changed,
    'packed.npz': archive_changed,
    'config.json': json_changed,
    'index.json': json_changed,
}


def mutated(rng: random.Random, kind: str, data: bytes) -> bytes:
    """A file of a kind with one change or several."""
    ways = [STRUCTURED[kind]] * 3 + [flipped, flipped, cut, spliced]
    return rng.choice(ways)(rng, data)


# Judging.


@dataclass
class Tally:
    """What came of the files of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def judge(kind: str, path: Path) -> str:
    """'read' or 'refused'; AssertionError where the file was read wrong, and whatever else the reader raises."""
    try:
        if kind == 'config.json':
            found = read_config(path)
            raw = json.loads(path.read_bytes())
            assert (found.architecture, found.model_args) == (raw['architecture'], raw.get('model_args', {}))
            return 'read'
        weights = read_weights(path)
    except WeightsError:
        return 'refused'
    expected = expected_tensors(kind, path)
    assert weights.keys() == expected.keys(), f'names {list(weights)}, expected {list(expected)}'
    for name, value in expected.items():
        got = weights[name].numpy()
        assert got.shape == value.shape, f'{name}: {got.shape}, expected {value.shape}'
        assert got.tobytes() == value.astype(got.dtype.newbyteorder('=')).tobytes(), f'{name} has other values'
    return 'read'


def expected_tensors(kind: str, path: Path) -> plain_readers.Arrays:
    """What the second reader makes of a file."""
    if kind == 'index.json':
        names = json.loads(path.read_bytes())['weight_map']
        shards = {shard: plain_readers.safetensors(path.parent / shard) for shard in set(names.values())}
        return {name: shards[shard][name] for name, shard in names.items()}
    readers = {'pth': plain_readers.torch_zip, 'old.pth': plain_readers.torch_old}
    reader = readers.get(kind) or (plain_readers.safetensors if kind == 'safetensors' else plain_readers.npz)
    return reader(path)


def run(files: int, seed: int, folder: Path, keep: Path | None = None) -> dict[str, Tally]:
    """Read so many changed files, in turn of every kind, in memory that is bounded."""
    seeds, tallies = seed_files(), {}
    halves = list(tensors().items())
    for part in (0, 1):
        shard = folder / f'model-0000{part + 1}-of-00002.safetensors'
        shard.write_bytes(save(dict(halves[part::2]), {'format': 'pt'}))
    for kind, data in seeds.items():
        path = folder / f'right.{kind}'
        path.write_bytes(data)
        assert judge(kind, path) == 'read', f'the unchanged {kind} is refused'
        tallies[kind] = Tally()
    bound_memory()
    for number in range(files):
        kind = list(seeds)[number % len(seeds)]
        rng, tally = random.Random(f'{seed} {number}'), tallies[kind]
        path = folder / f'changed.{kind}'
        path.unlink(missing_ok=True)
        path.write_bytes(mutated(rng, kind, seeds[kind]))
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', UserWarning)  # of unknown fields of a config
                tally.outcomes[judge(kind, path)] += 1
        except Exception as error:
            tally.faults.append(f'{kind} {number}: {type(error).__name__}: {str(error)[:300]}')
            if keep:
                keep.mkdir(exist_ok=True)
                (keep / f'{number}.{kind}').write_bytes(path.read_bytes())
        took = time.process_time() - began
        tally.slowest = max(tally.slowest, took)
        if took > SECONDS:
            tally.faults.append(f'{kind} {number}: took {took:.1f} s')
    return tallies


def bound_memory() -> None:
    """Let no reader ask for much address space from here on."""
    pages = int(Path('/proc/self/statm').read_text().split()[0]) if Path('/proc/self/statm').exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak() -> int:
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Print a table; status 1 where a file was not read right or refused."""
    parser = argparse.ArgumentParser(description='read damaged and hostile weights files')
    parser.add_argument('--files', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', type=Path, help='folder for the files that were neither read right nor refused')
    asked = parser.parse_args()
    before, began = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tallies = run(asked.files, asked.seed, Path(folder), asked.keep)
    grown = peak() - before
    table = Table('file', 'changed', 'refused', 'read right', 'slowest', 'faults')
    for kind, tally in tallies.items():
        read, refused = tally.outcomes['read'], tally.outcomes['refused']
        total = read + refused + len(tally.faults)
        table.add_row(kind, *map(str, (total, refused, read)), f'{tally.slowest * 1000:.0f} ms', str(len(tally.faults)))
    Console(width=100).print(table)
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    if grown > MEMORY:
        faults.append(f'memory grew by {grown >> 20} MiB')
    print(f'{asked.files} files in {time.perf_counter() - began:.0f} s; memory grew by {grown >> 20} MiB')
    print('\n'.join(faults[:40]))
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
