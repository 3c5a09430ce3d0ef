"""What goes wrong while a run is going: nothing that was done is lost. The table is in docs/reliability.md."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from foveal.data import create_dataset
from foveal.engine import checkpoint, guards
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from foveal.engine.train import train
from foveal.engine.writer import Writer
from foveal.files import remove_leftovers, replacing
from tests.images import write_folder
from tests.soak import CLOCK

# few operations of little cost, so that a second thread would only wait for the first
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def tiny(folder: Path, output: Path) -> TrainConfig:
    """A run of two epochs of four updates."""
    return TrainConfig(
        data=str(folder), model='test_convnext', model_options={'drop_path_rate': 0.2}, img_size=32, epochs=2,
        warmup_epochs=0.5, batch_size=12, lr=2e-3, workers=0, device='cpu', ema=0.9, output=str(output), threads=1,
    )  # fmt: skip


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainConfig:
    return tiny(folder, tmp_path / 'run')


@pytest.fixture(scope='module')
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, untouched."""
    output = tmp_path_factory.mktemp('whole') / 'run'
    train(tiny(folder, output))
    return output


def assert_same_end(output: str | Path, whole: Path) -> None:
    """Weights, running mean, optimizer and metrics are those of the other run, bit for bit."""
    ours, theirs = (checkpoint.load(path, 'last') for path in (output, whole))
    for one, other in ((ours.weights, theirs.weights), (ours.extra, theirs.extra)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    histories = [
        [{key: value for key, value in row.items() if key not in CLOCK} for row in saved.header['run']['history']]
        for saved in (ours, theirs)
    ]
    assert histories[0] == histories[1]
    assert len(Path(output, 'metrics.csv').read_text().splitlines()) == 3
    assert not list(Path(output).rglob('.*'))


def before_update(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Lets something happen once, before a run's update of this number."""
    original, made = training.update, []

    def update(*args: Any) -> Tensor:
        made.append(None)
        if len(made) == number:
            act()
        return original(*args)

    monkeypatch.setattr(training, 'update', update)


# the table


def test_full_disk(config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may grow to 20 kB only, in the second epoch: what a full disk says, wherever the tests run."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before_update(monkeypatch, 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])))
    try:
        with pytest.raises(OSError, match=r'cannot write .*safetensors \(\d+\.\d MB, .* MB are free\).*is whole'):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(config.output, 'last').header['epoch'] == 1
    train(replace(config, resume='auto'))
    assert_same_end(config.output, whole)


def test_a_disk_without_room_is_known_before_the_first_update(config: TrainConfig) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r'cannot write .*last\.safetensors'):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (Path(config.output) / 'metrics.csv').exists()


def test_unwritable_folder(config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder goes away, as on a share that is lost. (Root may write where permissions say otherwise.)"""
    output = Path(config.output)
    aside = output.with_name('aside')
    before_update(monkeypatch, 6, lambda: (output.rename(aside), output.write_text(''))[0] and None)
    with pytest.raises(OSError, match=r'Not a directory.*run'):
        train(config)
    output.unlink()
    aside.rename(output)
    train(replace(config, resume='auto'))
    assert_same_end(output, whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals(config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    before_update(monkeypatch, 6, lambda: os.kill(os.getpid(), number))
    stopped = train(config)
    assert (stopped.epoch, stopped.step) == (1, 2)
    train(replace(config, resume='auto'))
    assert_same_end(config.output, whole)


def test_killed_worker(config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        active_children()[0].kill()
        time.sleep(10)  # torch hears of it here, and raises; a worker that it misses first has another message

    before_update(monkeypatch, 6, kill)
    with pytest.raises(ChildProcessError, match=r'DataLoader worker .* is killed by signal.*--resume'):
        train(replace(config, workers=1, save_updates=1, batch_size=12))
    assert checkpoint.load(config.output, 'last').header['epoch'] == 1
    train(replace(config, resume='auto'))
    assert_same_end(config.output, whole)


def test_damaged_checkpoint(config: TrainConfig) -> None:
    train(replace(config, epochs=1))
    last = Path(config.output) / 'last.safetensors'
    damaged = last.read_bytes()[:-100]
    last.write_bytes(damaged)
    with pytest.raises(ValueError, match=r'last\.safetensors is damaged or no checkpoint'):
        train(replace(config, resume='auto'))
    assert last.read_bytes() == damaged
    # the weights of the best epoch are a file of their own
    begun = replace(config, checkpoint=str(last.with_name('best.safetensors')), output=config.output + '2', epochs=1)
    assert train(begun).epoch == 1


KILLED_RANK = """
import os, signal, sys
from foveal.engine import train as training
from foveal.cli import main
original = training.update
def update(run, *rest):
    if os.environ['RANK'] == '1' and (run.epoch, run.step) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(run, *rest)
training.update = update
sys.exit(main(['train', '--config', sys.argv[1]]))
"""


def test_killed_rank(config: TrainConfig, tmp_path: Path) -> None:
    """The other process does not wait for ever, and the run goes on: here in one process."""
    # without what is each process's own: drop path
    config = replace(config, model_options={}, opt='sgd', lr=0.02, save_updates=1)
    train(config)
    settings = yaml.safe_load((Path(config.output) / 'config.yaml').read_text())
    settings |= {'output': str(tmp_path / 'two'), 'batch_size': 6}
    (tmp_path / 'two.yaml').write_text(yaml.safe_dump(settings))
    (tmp_path / 'main.py').write_text(KILLED_RANK)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += [str(tmp_path / 'main.py'), str(tmp_path / 'two.yaml')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert 'Signal 9 (SIGKILL)' in done.stderr, done.stderr[-2000:]
    saved = checkpoint.load(tmp_path / 'two', 'last').header
    assert saved['epoch'] == 1
    assert saved['run']['step'] in (1, 2)
    train(replace(config, output=str(tmp_path / 'two'), resume='auto'))
    ours, theirs = (checkpoint.load(path, 'last') for path in (tmp_path / 'two', config.output))
    for name, tensor in theirs.weights.items():
        # the mean of two halves' gradients rounds otherwise than the mean of the whole
        assert torch.allclose(ours.weights[name], tensor, atol=1e-5), name


def test_kill_at_any_moment() -> None:
    """A short `make soak`."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'tests.soak', '--runs', '3'],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert ' 0 ended otherwise' in done.stdout
    assert re.search(r'3 runs, [3-6] killed', done.stdout)


# numbers that are not finite


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """The images, of which red/0.png is white."""
    root = write_folder(tmp_path / 'poisoned', per_class=16)
    Image.fromarray(np.full((32, 40, 3), 255, np.uint8)).save(root / 'train' / 'red' / '0.png')
    return root


@pytest.fixture
def allergic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models whose stem gives NaN for an image of one colour."""
    original = training.build

    def fall_ill(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module
        plain = inputs[0].flatten(2).std(2).amax(1) < 1e-3
        return output.masked_fill(plain[:, None, None, None], torch.nan)

    def build(*args: Any) -> Any:
        built = original(*args)
        built[0].model.stem[0].register_forward_hook(fall_ill)
        return built

    monkeypatch.setattr(training, 'build', build)


FOUND = r'epoch 1, update {}: the loss became nan; first not finite: the output of stem\.0 \(Conv2d\), for .*red/0\.png'


def where(config: TrainConfig) -> int:
    """The update of the first epoch that has red/0.png."""
    train_set, val_set = training.open_data(config)
    process = training.distributed.start('cpu', 1)
    loader = training.build(config, process, train_set, val_set)[1]
    index = next(i for i in range(len(train_set)) if train_set.name(i).endswith('red/0.png'))
    return next(i for i, batch in enumerate(loader) if index in batch.addresses[:, 1])


@pytest.mark.usefixtures('allergic')
@pytest.mark.parametrize('at_once', [True, False], ids=['at once', 'every few updates'])
def test_nan_batch_stops(config: TrainConfig, poisoned: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """As on the CPU, and as on devices that are not waited for."""
    config = replace(config, data=str(poisoned), no_aug=True, save_updates=1)
    wrong = where(config)
    if not at_once:
        original = guards.Guard.__init__

        def begin(self: guards.Guard, *args: Any) -> None:
            original(self, *args)
            self.at_once = False

        monkeypatch.setattr(guards.Guard, '__init__', begin)
    with pytest.raises(FloatingPointError, match=FOUND.format(wrong + 1) + '; the update was not made; try a lower lr'):
        train(config)
    saved = checkpoint.load(config.output, 'last')
    assert saved.header['run']['step'] == wrong
    assert all(tensor.isfinite().all() for tensor in saved.weights.values())


@pytest.mark.parametrize('model', ['test_convnext', 'test_resnet'])
def test_nan_batch_is_skipped(
    config: TrainConfig, poisoned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest, model: str,
) -> None:  # fmt: skip
    """The weights after the skipped update are those before it; batch norms' statistics and the running mean too."""
    config = replace(config, data=str(poisoned), no_aug=True, nonfinite='skip', ema=0.5, model=model, model_options={})
    wrong = where(config)
    if model == 'test_convnext':
        request.getfixturevalue('allergic')
        said = FOUND
    else:
        # an image that is not finite itself
        poison_images(monkeypatch, 'red/0.png')
        said = r'epoch 1, update {}: the loss became nan; images that are not finite: .*red/0\.png'
    states = []
    original = training.update

    def update(run: Any, *rest: Any) -> Tensor:
        loss = original(run, *rest)
        states.append(({k: v.clone() for k, v in run.task.state_dict().items()}, loss))
        return loss

    monkeypatch.setattr(training, 'update', update)
    run = train(config)
    assert run.skipped == 2
    assert states[wrong][1].isnan()
    # in the second epoch the batch comes at another place; before the first update there is no state to compare with
    for number in range(1, len(states)):
        (before, _), (after, loss) = states[number - 1], states[number]
        same = all(torch.equal(before[key], after[key]) for key in before)
        assert same == bool(loss.isnan())
    assert all(value.isfinite().all() for value in run.judged.state_dict().values())
    name = next(name for name, _ in run.model.named_parameters() if name.endswith('fc.weight'))
    mean = states[0][0][f'model.{name}']
    for state, loss in states[1:]:
        if loss.isfinite():
            mean = 0.5 * mean + 0.5 * state[f'model.{name}']
    # seven float32 roundings
    torch.testing.assert_close(run.judged.state_dict()[name], mean, rtol=1e-5, atol=1e-7)
    finite = [loss for _, loss in states[:4] if loss.isfinite()]
    assert run.history[0]['train_loss'] == pytest.approx(torch.stack(finite).mean().item(), rel=1e-6)
    printed = capsys.readouterr().out
    assert re.search(said.format(wrong + 1) + r'; update skipped \(1 of at most 10\)', printed)
    assert checkpoint.load(config.output, 'last').header['run']['skipped'] == 2
    with pytest.raises(FloatingPointError, match=r'epoch 2, update \d: .*; 1 updates were skipped before it'):
        train(replace(config, nonfinite_limit=1, output=config.output + '2'))


def poison_images(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Lets the loader give the image whose name ends so as NaN."""
    original = training.train_epoch

    class Poisoned:
        def __init__(self, loader: Any):
            self.loader = loader

        def __getattr__(self, key: str) -> Any:
            return getattr(self.loader, key)

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Any:
            for batch in self.loader:
                names = [self.loader.dataset.name(index) for index in batch.addresses[:, 1].tolist()]
                for place, found in enumerate(names):
                    if found.endswith(name):
                        batch.images[place] = torch.nan
                yield batch

    def train_epoch(run: Any, task: Any, loader: Any, *rest: Any) -> bool:
        return original(run, task, Poisoned(loader), *rest)

    monkeypatch.setattr(training, 'train_epoch', train_epoch)


def test_gradient_that_is_not_finite_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training.backward

    def backward(run: Any, loss: Tensor) -> None:
        original(run, loss)
        if run.step == 2:
            run.model.head.fc.weight.grad[0, 0] = torch.inf

    monkeypatch.setattr(training, 'backward', backward)
    with pytest.raises(FloatingPointError, match=r'update 3: the gradient of model\.head\.fc\.weight is not finite'):
        train(config)


def test_all_finite_sees_what_isfinite_sees() -> None:
    for value in (0.0, 1e19, -1e19, torch.inf, -torch.inf, torch.nan):
        for dtype in (torch.float32, torch.bfloat16):
            tensors = [torch.ones(3, 5, dtype=dtype), torch.full((2,), 1e19, dtype=dtype), torch.ones(2, dtype=dtype)]
            tensors[2][1] = value
            assert guards.all_finite(tensors).item() == all(t.isfinite().all().item() for t in tensors)


# memory


def test_a_batch_too_large_for_memory_is_split(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # without drop path, which draws for each part
    config = replace(config, model_options={}, opt='sgd', lr=0.02, ema=0, clip_grad=5.0)
    expected = train(config)
    original, seen = training.build, []

    def build(*args: Any) -> Any:
        built = original(*args)

        def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                seen.append(len(inputs[0]))
                if len(inputs[0]) > 5:
                    raise torch.OutOfMemoryError('out of memory')

        built[0].model.register_forward_pre_hook(refuse)
        return built

    monkeypatch.setattr(training, 'build', build)
    run = train(replace(config, output=str(tmp_path / 'split')))
    assert seen[:6] == [12, 6, 3, 3, 3, 3]
    assert set(seen[2:]) == {3}
    assert capsys.readouterr().out.count('out of memory at') == 2
    assert checkpoint.load(tmp_path / 'split', 'last').header['run']['fitting'] == 3
    for one, other in zip(run.model.parameters(), expected.model.parameters(), strict=True):
        # sums of the same gradients in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_memory_that_holds_no_image_ends_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise torch.OutOfMemoryError('out of memory')

    monkeypatch.setattr(training, 'backward', none)
    with pytest.raises(torch.OutOfMemoryError):
        train(config)


# writing


def test_a_second_job_waits_for_the_first() -> None:
    go, order = threading.Event(), []

    def first() -> None:
        go.wait(10)
        order.append(1)

    with Writer() as writer:
        writer.submit(first)
        order.append(0)
        go.set()
        writer.submit(lambda: order.append(2))
    assert order == [0, 1, 2]


def test_errors_of_the_writer_come_out() -> None:
    def fail() -> None:
        raise OSError('the disk is full')

    writer = Writer()
    writer.submit(fail)
    with pytest.raises(OSError, match='the disk is full'):
        writer.submit(lambda: None)
    writer.wait()  # once
    with pytest.raises(OSError, match='the disk is full'), Writer() as writer:
        writer.submit(fail)

    def fail_otherwise() -> None:
        with Writer() as writer:
            writer.submit(fail)
            raise KeyError('another')

    with pytest.raises(KeyError) as caught:
        fail_otherwise()
    assert caught.value.__notes__ == ['the disk is full']


def test_a_snapshot_stays_as_it_was(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    taken = checkpoint.snapshot(model.state_dict(), {}, {})
    with torch.no_grad():
        model.weight.zero_()
    taken.write(tmp_path / 'a.safetensors')
    assert torch.equal(checkpoint.load(tmp_path / 'a.safetensors').weights['weight'], before)


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ['last.safetensors', '.hidden', '.tmp', '.last.safetensors.bak', '.a.csv.12345678', 'a.csv.12345678.csv']
    for name in kept:
        (tmp_path / name).write_text('mine')
    left = []
    for name in ('last.safetensors', 'metrics.csv', 'epoch-0001.safetensors'):
        with replacing(tmp_path / name) as temporary:
            left.append(temporary.name)
        (tmp_path / name).unlink()
    left.append('.tmptmNqc0')  # as a killed safetensors left it
    for name in (*left, kept[0]):
        (tmp_path / name).write_text('half')
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_run_killed_before_its_first_checkpoint_begins_again(config: TrainConfig) -> None:
    output = Path(config.output)
    output.mkdir()
    for name in ('config.yaml', 'classes.json', '.last.safetensors.abcd1234.safetensors'):
        (output / name).write_text('')
    with pytest.raises(FileExistsError, match='already holds a run'):
        train(config)
    train(replace(config, resume='auto', epochs=1))
    assert not list(output.glob('.*'))
    (output / 'last.safetensors').unlink()
    # another matter: somebody took it away
    with pytest.raises(FileExistsError, match='already holds a run'):
        train(replace(config, resume='auto', epochs=1))


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'nonfinite': 'ignore'}, "nonfinite must be one of stop, skip, got 'ignore'"),
        ({'nonfinite_limit': -1}, 'nonfinite_limit must be at least 0, got -1'),
    ],
)
def test_options_are_checked(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(replace(config, **options))


def test_names_come_from_the_data(folder: Path) -> None:
    data = create_dataset(str(folder), split='train')
    loader: Any = type('Loader', (), {'dataset': data})
    addresses = torch.tensor([[0, 3, 0], [0, 7, 0]])
    assert guards.sample_names(loader, addresses, torch.tensor([False, True])) == data.name(7)
