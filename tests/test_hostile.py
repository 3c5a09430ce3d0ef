"""Files from strangers: refused with a clear error, nothing run, little memory taken. `make fuzz` is the long form."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal.weights import WeightsError, read_weights
from foveal.weights.config import read_config
from foveal.weights.read import find_weights
from tests.fuzz import packed

CONFIG: dict[str, Any] = {'architecture': 'test_vit', 'model_args': {'depth': 2}, 'pretrained_cfg': {'num_classes': 3}}


def test_three_hundred_changed_files() -> None:
    """In a process of its own, whose memory is bounded."""
    done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz', '--files', '300', '--seed', '1'],
        cwd=Path(__file__).parents[1],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '300 files' in done.stdout


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize('modern', [True, False], ids=['zip', 'old format'])
@pytest.mark.parametrize('wrapped', [True, False])
def test_a_pickle_runs_nothing(modern: bool, wrapped: bool, tmp_path: Path) -> None:
    call = Call(os.mkdir, str(tmp_path / 'was run'))
    torch.save({'model': {'a': call}} if wrapped else call, tmp_path / 'a.pth', _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match=r'asks for posix\.mkdir, and only plain tensors are read'):
        read_weights(tmp_path / 'a.pth')
    (tmp_path / 'b.bin').write_bytes(pickle.dumps(call))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / 'b.bin')
    assert not (tmp_path / 'was run').exists()


@pytest.mark.parametrize('modern', [True, False], ids=['zip', 'old format'])
@pytest.mark.parametrize('function', [bytearray, torch.FloatTensor, torch.UntypedStorage])
def test_a_pickle_gets_no_memory(function: Any, modern: bool, tmp_path: Path) -> None:
    """Constructors that torch's own list of safe calls holds: a few bytes would ask for a hundred gigabytes."""
    torch.save({'a': Call(function, 10**11)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match='asks for'):
        read_weights(tmp_path / 'a.pth')


def test_a_small_file_shows_no_large_tensor(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(1).expand(10**6, 10**6)}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='larger than the file'):
        read_weights(tmp_path / 'a.pth')


def test_tensors_without_plain_values_are_refused(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(3, 3).to_sparse()}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='_rebuild_sparse_tensor'):
        read_weights(tmp_path / 'a.pth')
    torch.save({'a': torch.zeros(3, device='meta')}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='_rebuild_meta_tensor'):
        read_weights(tmp_path / 'a.pth')
    torch.save({3: torch.zeros(3)}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='does not hold named tensors'):
        read_weights(tmp_path / 'a.pth')


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(3), 'module.a': torch.ones(3)}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=r'differ by _orig_mod\. or module\. alone'):
        read_weights(tmp_path / 'a.pth')


@pytest.mark.parametrize('member', ['archive/data.pkl', 'archive/data/0'])
def test_a_zip_bomb_in_a_torch_file(member: str, tmp_path: Path) -> None:
    target = io.BytesIO()
    torch.save({'a': torch.zeros(3)}, target)
    with zipfile.ZipFile(target) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = bytes(200 << 20)
    (tmp_path / 'a.pth').write_bytes(packed(members, zipfile.ZIP_DEFLATED))
    assert (tmp_path / 'a.pth').stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match='compressed, which'):
        read_weights(tmp_path / 'a.pth')


def test_a_tensor_whose_memory_is_short(tmp_path: Path) -> None:
    """Mapped, it would go on in the member behind it."""
    target = io.BytesIO()
    torch.save({'a': torch.zeros(3), 'b': torch.ones(3)}, target)
    with zipfile.ZipFile(target) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members['archive/data/0'] = bytes(4)
    (tmp_path / 'a.pth').write_bytes(packed(members))
    with pytest.raises(WeightsError, match='the memory of tensor 0 should be 12 bytes'):
        read_weights(tmp_path / 'a.pth')


def test_a_zip_bomb_of_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / 'a.npz', a=np.zeros(50 << 20, np.uint8), b=np.zeros(50 << 20, np.uint8))
    with pytest.raises(WeightsError, match='would inflate to more than'):
        read_weights(tmp_path / 'a.npz')


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'a.npz', a=np.array([Call(os.mkdir, str(tmp_path / 'was run'))], dtype=object))
    with pytest.raises(WeightsError, match='has the type object, and only numbers are read'):
        read_weights(tmp_path / 'a.npz')
    assert not (tmp_path / 'was run').exists()


def test_an_array_that_says_more_than_it_has(tmp_path: Path) -> None:
    target = io.BytesIO()
    np.save(target, np.zeros(3, np.float32))
    (tmp_path / 'a.npz').write_bytes(packed({'a.npy': target.getvalue().replace(b'(3,)', b'(9999999999,)')}))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / 'a.npz')


@pytest.mark.parametrize(
    ('header', 'said'),
    [
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', "'a' stands twice"),
        (b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}', 'cannot read weights'),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}', 'cannot read weights'),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4000]}}', 'cannot read weights'),
        (b'{"a": NaN}', 'NaN is not JSON'),
        (b'{"a": ' + b'[' * 5000 + b']' * 5000 + b'}', 'nested too deeply'),
        (b'{"a": "\xff"}', 'not JSON'),
        (b'{"a": ' + b'9' * 5000 + b'}', 'not JSON'),
        (b'[1, 2]', 'an object belongs'),
    ],
)
def test_headers_of_safetensors(header: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / 'a.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    with pytest.raises(WeightsError, match=said):
        read_weights(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('length', [0, 10**7, 2**40, 2**64 - 1])
def test_the_length_of_a_header(length: int, tmp_path: Path) -> None:
    (tmp_path / 'a.safetensors').write_bytes(length.to_bytes(8, 'little') + b'{}' * 100)
    with pytest.raises(WeightsError, match='its header says to be of'):
        read_weights(tmp_path / 'a.safetensors')


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / 'a.safetensors').open('wb') as file:
        file.write((90 << 20).to_bytes(8, 'little') + b'{')
        file.truncate(100 << 20)
    with pytest.raises(WeightsError, match='its header says to be of 94371840 bytes'):
        read_weights(tmp_path / 'a.safetensors')


@pytest.mark.parametrize(
    'name', ['../a.safetensors', '/tmp/a.safetensors', 'b/../../a.safetensors', '..\\a.safetensors', 'a.bin', '', 3]
)
def test_an_index_names_files_beside_itself(name: Any, tmp_path: Path) -> None:
    (tmp_path / 'model').mkdir()
    save_file({'w': torch.zeros(1)}, tmp_path / 'a.safetensors')
    index = tmp_path / 'model' / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {'w': name}}))
    with pytest.raises(WeightsError, match='only safetensors files beside it'):
        read_weights(index)


@pytest.mark.parametrize('key', ['file', 'state_dict', 'hf_hub_filename'])
def test_a_config_names_no_weights(key: str, tmp_path: Path) -> None:
    """What it could name is any file of the reader's machine."""
    config = {**CONFIG, 'pretrained_cfg': {key: '/etc/passwd'}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    save_file({'w': torch.zeros(1)}, tmp_path / 'model.safetensors')
    with pytest.raises(WeightsError, match=f'{key} names weights'):
        foveal.create_model(f'local-dir:{tmp_path}', pretrained=True)


def test_a_config_does_not_say_where_to_look(tmp_path: Path) -> None:
    config = {**CONFIG, 'pretrained_cfg': {'url': 'http://elsewhere/a.pth', 'hf_hub_id': 'else/where'}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    record = read_config(tmp_path / 'config.json').pretrained_cfg
    assert not record.has_weights


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{"architecture": 3}', 'architecture must be the name of a model, got 3'),
        ('[]', 'an object belongs'),
        ('{"architecture": "a", "model_args": [1]}', 'model_args must be an object'),
        ('{"architecture": "a", "model_args": {"depth": 1e400}}', 'model_args.depth cannot be inf'),
        ('{"architecture": "a", "model_args": {"depth": 1000000}}', 'model_args.depth cannot be 0xf4240'),
        ('{"architecture": "a", "model_args": {"depths": [2, 1000000]}}', r'model_args.depths.1 cannot be'),
        ('{"architecture": "a", "model_args": {"embed_dim": 1' + '0' * 40 + '}}', 'model_args.embed_dim cannot be'),
        ('{"architecture": "a", "model_args": {"x": ' + '[' * 900 + ']' * 900 + '}}', 'nested too deeply'),
        ('{"architecture": "a", "pretrained_cfg": {"input_size": [3, 0, 3]}}', 'input_size cannot be'),
        ('{"architecture": "a", "pretrained_cfg": {"input_size": "3"}}', "input_size cannot be '3'"),
        ('{"architecture": "a", "pretrained_cfg": {"mean": [0.5, "a"]}}', 'mean cannot be'),
        ('{"architecture": "a", "num_classes": 2.5}', 'num_classes cannot be'),
        ('{"architecture": "a", "label_names": [1, 2]}', 'label_names cannot be'),
        ('{"architecture": "a", "a": NaN}', 'NaN is not JSON'),
        ('{"architecture": "a", "architecture": "b"}', 'stands twice'),
        ('', 'not JSON'),
    ],
)
def test_configs(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(WeightsError, match=said):
        read_config(tmp_path / 'config.json')


def test_unknown_fields_of_a_record_are_passed_over_aloud(tmp_path: Path) -> None:
    config = {**CONFIG, 'pretrained_cfg': {'new_field': 1, 'crop_pct': 0.5}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.warns(UserWarning, match='new_field'):
        assert read_config(tmp_path / 'config.json').pretrained_cfg.crop_pct == 0.5


def test_a_folder_with_several_files_is_no_guess(tmp_path: Path) -> None:
    for name in ('a.pth', 'b.safetensors'):
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(WeightsError, match=r'several weights files: a\.pth, b\.safetensors'):
        find_weights(tmp_path)


@pytest.mark.parametrize('kind', ['safetensors', 'pth'])
def test_right_files_are_mapped_not_copied(kind: str, tmp_path: Path) -> None:
    """200 MB of weights cost no memory until they are used, and what is written to them stays out of the file."""
    path = tmp_path / f'a.{kind}'
    weights = {'a': torch.ones(25 << 20), 'b': torch.ones(25 << 20)}
    save_file(weights, path) if kind == 'safetensors' else torch.save(weights, path)
    code = (
        'import resource, sys; from foveal.weights import read_weights\n'
        'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        f'before = peak(); weights = read_weights({str(path)!r}); print(peak() - before)\n'
        "weights['a'][0] = 2"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 << 10, 'KiB'
    assert read_weights(path)['a'][0] == 1


def test_an_old_torch_file_that_leaves_a_tensor_without_its_memory_is_refused(tmp_path: Path) -> None:
    """torch.load gives such a tensor whatever was in memory."""
    path = tmp_path / 'old.pth'
    torch.save({'a': torch.ones(3), 'b': torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert sorted(read_weights(path)) == ['a', 'b']
    # of the two places of a storage's key, the tensor's and the list of what follows, the second
    key = re.findall(rb'\d{12,16}', data)[-1]
    at = data.rindex(key)
    path.write_bytes(data[:at] + key[:-1] + (b'1' if key.endswith(b'2') else b'2') + data[at + len(key) :])
    with pytest.raises(WeightsError, match='are not those that follow'):
        read_weights(path)
