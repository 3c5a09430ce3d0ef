"""Downloads and uploads, against a stand-in for the hub on loopback."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save

import foveal
from foveal import hub
from foveal.weights import WeightsError, read_weights
from tests.hub_server import Hub

CONFIG = {'architecture': 'test_convnext', 'num_classes': 3, 'model_args': {'num_classes': 3}, 'pretrained_cfg': {}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, with one model on it, and huggingface_hub set to it."""
    server = Hub()
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', server.url)
    monkeypatch.setattr('huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE', server.url + TEMPLATE)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_DISABLE_XET', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path / 'no-token'))
    monkeypatch.setattr('foveal.hub.PAUSE', 0.01)
    for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    server.add('us/tiny', {'config.json': json.dumps(CONFIG).encode(), 'model.safetensors': weights(0)})
    yield server
    server.shutdown()
    server.server_close()


TEMPLATE = '/{repo_id}/resolve/{revision}/{filename}'


def weights(seed: int) -> bytes:
    torch.manual_seed(seed)
    return save(foveal.create_model('test_convnext', num_classes=3).state_dict(), {'format': 'pt'})


def test_a_model_comes_from_the_hub_and_then_from_the_cache(server: Hub, tmp_path: Path) -> None:
    model = foveal.create_model('hf-hub:us/tiny', pretrained=True, cache_dir=tmp_path)
    torch.manual_seed(0)
    assert torch.equal(model.head.fc.weight, foveal.create_model('test_convnext', num_classes=3).head.fc.weight)
    foveal.create_model('hf-hub:us/tiny', pretrained=True, cache_dir=tmp_path)
    assert server.asked['model.safetensors', 0] == 1


def test_a_revision_is_a_set_of_files_of_its_own(server: Hub, tmp_path: Path) -> None:
    server.add('us/tiny', {'config.json': json.dumps(CONFIG).encode(), 'model.safetensors': weights(1)}, 'v2')
    first, second = (
        foveal.create_model(f'hf-hub:us/tiny{name}', pretrained=True, cache_dir=tmp_path) for name in ('', '@v2')
    )
    assert not torch.equal(first.head.fc.weight, second.head.fc.weight)
    with pytest.raises(WeightsError, match="no revision 'v3'"):
        hub.download('us/tiny', 'config.json', 'v3', tmp_path)


def test_a_broken_connection_is_taken_up_where_it_broke(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE', 10_000)  # what is written at a time
    server.break_after['model.safetensors'] = 50_000
    path = hub.download_weights('us/tiny', cache_dir=tmp_path)
    assert path.read_bytes() == weights(0)
    assert server.asked['model.safetensors', 0] == 1
    assert server.asked['model.safetensors', 50_000] == 1


@pytest.mark.parametrize(
    ('repository', 'filename', 'said'),
    [
        ('us/tiny', 'other.bin', 'no such file'),
        ('us/nothing', 'config.json', 'no such repository, or it is private'),
        ('us/tiny/more', 'config.json', 'no repository of the hub'),
        ('us/empty', None, r'model\.safetensors of us/empty: the repository has no such file'),
    ],
)
def test_what_is_not_there_is_said(
    server: Hub, tmp_path: Path, repository: str, filename: str | None, said: str
) -> None:
    server.add('us/empty', {'notes.txt': b''})
    with pytest.raises(WeightsError, match=said):
        hub.download_weights(repository, filename, tmp_path)


def test_a_private_repository_needs_the_token(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.private.add('us/tiny')
    with pytest.raises(WeightsError, match='HF_TOKEN'):
        hub.download_weights('us/tiny', cache_dir=tmp_path)
    monkeypatch.setenv('HF_TOKEN', 'hf_right')
    assert hub.download_weights('us/tiny', cache_dir=tmp_path).is_file()


def test_offline_the_cache_serves_alone(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.download_weights('us/tiny', cache_dir=tmp_path)
    asked = server.asked.copy()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert hub.download_weights('us/tiny', cache_dir=tmp_path).is_file()
    with pytest.raises(WeightsError, match='not in the cache, and HF_HUB_OFFLINE'):
        hub.download('us/tiny', 'config.json', cache_dir=tmp_path)
    with pytest.raises(WeightsError, match='HF_HUB_OFFLINE'):
        hub.download_url(f'{server.url}/files/a-12345678.pth', tmp_path)
    assert server.asked == asked


def test_no_network_is_said_and_the_cache_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('time.sleep', lambda _: None)  # between attempts
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')  # the port of `discard`: closed
    monkeypatch.setattr('huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE', 'http://127.0.0.1:9' + TEMPLATE)
    with pytest.raises(WeightsError, match='not in the cache, and the hub cannot be reached'):
        hub.download_weights('us/tiny', cache_dir=tmp_path)
    with pytest.raises(WeightsError, match='refused'):
        hub.download_url('http://127.0.0.1:9/a.pth', tmp_path)
    assert not list(tmp_path.glob('*.pth'))


def test_weights_in_parts_come_whole(server: Hub, tmp_path: Path) -> None:
    model = foveal.create_model('test_convnext', num_classes=3)
    model.save_pretrained(tmp_path / 'saved', max_shard_size='500KB')
    server.add('us/parts', {p.name: p.read_bytes() for p in (tmp_path / 'saved').iterdir()})
    loaded = foveal.create_model('hf-hub:us/parts', pretrained=True, cache_dir=tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_index_names_no_files_elsewhere(server: Hub, tmp_path: Path) -> None:
    index = {'weight_map': {'a': '../../secret.safetensors'}}
    server.add('us/bad', {'model.safetensors.index.json': json.dumps(index).encode()})
    with pytest.raises(WeightsError, match='only safetensors files beside it'):
        hub.download_weights('us/bad', cache_dir=tmp_path)


# Plain addresses.


@pytest.fixture
def file(server: Hub) -> tuple[str, bytes]:
    """The address of a file that has its hash in its name, and its content."""
    data = weights(0)
    name = f'tiny-{hashlib.sha256(data).hexdigest()[:8]}.safetensors'
    server.add('files', {name: data, 'plain.pth': data, 'tiny-00000000.pth': data})
    return f'{server.url}/files/{name}', data


def test_an_address_is_fetched_once(server: Hub, file: tuple[str, bytes], tmp_path: Path) -> None:
    url, data = file
    for _ in range(2):
        assert hub.download_url(url, tmp_path).read_bytes() == data
    assert len(read_weights(hub.download_url(url, tmp_path))) > 10
    assert sum(server.asked.values()) == 1


def test_a_download_goes_on_after_a_break(server: Hub, file: tuple[str, bytes], tmp_path: Path) -> None:
    url, data = file
    name = url.rpartition('/')[2]
    server.break_after[name] = 70_000
    assert hub.download_url(url, tmp_path).read_bytes() == data
    assert server.asked == {(name, 0): 1, (name, 70_000): 1}


def test_a_later_call_goes_on_after_a_break(
    server: Hub, file: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, data = file
    name = url.rpartition('/')[2]
    monkeypatch.setattr('foveal.hub.ATTEMPTS', 1)
    server.break_after[name] = 70_000
    with pytest.raises(WeightsError, match='broke after 70000'):
        hub.download_url(url, tmp_path)
    assert not (tmp_path / name).exists()
    assert hub.download_url(url, tmp_path).read_bytes() == data
    assert server.asked[name, 70_000] == 1


@pytest.mark.usefixtures('file')
def test_a_wrong_hash_leaves_nothing(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r'its name promises 00000000'):
        hub.download_url(f'{server.url}/files/tiny-00000000.pth', tmp_path)
    assert [p.suffix for p in tmp_path.iterdir() if p.suffix != '.lock'] == []


def test_a_damaged_part_is_not_built_upon_twice(file: tuple[str, bytes], tmp_path: Path) -> None:
    """What lies there of an earlier attempt may be of another file: the hash tells, and the next attempt is clean."""
    url, data = file
    (tmp_path / f'.{url.rpartition("/")[2]}.partial').write_bytes(b'x' * 1000)
    with pytest.raises(WeightsError, match='promises'):
        hub.download_url(url, tmp_path)
    assert hub.download_url(url, tmp_path).read_bytes() == data


@pytest.mark.parametrize('url', ['file:///etc/passwd', 'http://127.0.0.1/', 'https://host/..', 'ftp://host/a.pth'])
def test_only_addresses_of_files_are_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='no http address of a file'):
        hub.download_url(url, tmp_path)


@pytest.mark.usefixtures('file')
def test_a_missing_address_is_said(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match='404'):
        hub.download_url(f'{server.url}/files/nothing.pth', tmp_path)
    assert server.asked == {}


# Uploads.


def test_a_model_is_pushed_and_comes_back(server: Hub, tmp_path: Path) -> None:
    model = foveal.create_model('test_convnext', num_classes=3)
    url = foveal.push_to_hub(model, 'us/new', token='hf_right', label_names=['a', 'b', 'c'], private=True)
    assert url.startswith(server.url)
    assert server.created[0]['name'] == 'new'
    assert server.created[0].get('private', server.created[0].get('visibility') == 'private')
    assert set(server.repos['us/new']['main']) >= {'config.json', 'model.safetensors', 'README.md'}
    assert b'hf-hub:us/new' in server.repos['us/new']['main']['README.md']
    loaded = foveal.create_model('hf-hub:us/new', pretrained=True, cache_dir=tmp_path)
    assert loaded.pretrained_cfg.label_names == ('a', 'b', 'c')
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_card_on_the_hub_stays_and_a_branch_is_made(server: Hub) -> None:
    server.add('us/tiny', {'README.md': b'written by hand'}, 'v2')
    model = foveal.create_model('test_convnext', num_classes=3)
    foveal.push_to_hub(model, 'us/tiny', token='hf_right', revision='v2')
    assert server.repos['us/tiny']['v2']['README.md'] == b'written by hand'
    assert server.repos['us/tiny']['main'].keys() == {'config.json', 'model.safetensors'}


@pytest.mark.usefixtures('server')
def test_pushing_without_a_token_is_said() -> None:
    with pytest.raises(WeightsError, match='HF_TOKEN'):
        foveal.push_to_hub(foveal.create_model('test_convnext'), 'us/new')
    assert huggingface_hub.get_token() is None
