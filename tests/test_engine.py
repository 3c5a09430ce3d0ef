"""Training, saving, resuming, evaluating."""

import csv
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from foveal import cli, create_model
from foveal.data import create_dataset, create_loader
from foveal.data.stream import StreamSampler
from foveal.engine import checkpoint, distributed
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from foveal.engine.evaluate import Scores, evaluate
from foveal.engine.goals import OneLabel
from foveal.engine.train import train
from foveal.files import check_writable, replacing, write_text
from foveal.optim import create_optimizer
from tests.images import write_folder

# few operations of little cost, so that a second thread would only wait for the first
torch.set_num_threads(1)


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return replace(config, model_options={'drop_path_rate': 0.2}, epochs=3, color_jitter=0.2, mixup=0.2)


def weights(run: Path, name: str = 'last') -> dict[str, torch.Tensor]:
    return checkpoint.load(run / f'{name}.safetensors').weights


def rows(run: str | Path) -> list[dict[str, float]]:
    """metrics.csv without what a clock says."""
    with (Path(run) / 'metrics.csv').open() as file:
        return [
            {key: float(value) for key, value in row.items() if key not in ('seconds', 'images_per_second')}
            for row in csv.DictReader(file)
        ]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# the run


def test_a_checkpoint_from_before_an_option_goes_on_without_it(config: TrainConfig) -> None:
    run = train(replace(config, epochs=1))
    saved = checkpoint.load(Path(config.output), 'last')
    old = saved.header['run']['config']
    assert old.pop('evaluate_plain') is False
    run.check_same(saved)
    assert old.pop('lr') != TrainConfig().lr
    with pytest.raises(ValueError, match=r'lr: 0\.001 there, 0\.002 here'):
        run.check_same(saved)


def test_a_run_learns_and_leaves_its_files(config: TrainConfig) -> None:
    run = train(replace(config, mixup=0, epochs=5))
    output = Path(config.output)
    history = rows(output)
    assert [row['epoch'] for row in history] == [1, 2, 3, 4, 5]
    assert history[-1]['train_loss'] < history[0]['train_loss'] - 0.1
    assert history[-1]['val_top1'] >= 90
    assert history[-1]['val_top5'] == 100
    assert history[-1]['lr'] == 0
    assert run.best == max(row['val_top1'] for row in history)
    files = 'best.safetensors classes.json config.yaml confusion.png curves.png evaluation.json last.safetensors '
    files += 'metrics.csv provenance.json report.html'
    assert sorted(path.name for path in output.iterdir()) == files.split()
    saved = yaml.safe_load((output / 'config.yaml').read_text())
    assert (saved['batch_size'], saved['model_options']) == (12, {'drop_path_rate': 0.2})
    for picture in ('curves.png', 'confusion.png'):
        with Image.open(output / picture) as image:
            assert min(image.size) > 300
            assert len(image.convert('RGB').getcolors(1 << 20)) > 20
    best = next(row for row in history if row['val_top1'] == run.best)
    metrics = checkpoint.load(output).header['metrics']
    assert (metrics['epoch'], metrics['val_top1']) == (best['epoch'], best['val_top1'])


def test_a_run_is_the_same_every_time_and_with_any_workers(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    for workers in (0, 2):
        again = replace(config, output=str(tmp_path / f'workers{workers}'), workers=workers)
        train(again)
        assert rows(again.output) == rows(config.output)
        assert equal(weights(Path(again.output)), weights(Path(config.output)))
    other = replace(config, output=str(tmp_path / 'seed'), seed=1)
    train(other)
    assert rows(other.output) != rows(config.output)


@pytest.mark.parametrize('opt', ['adamw', 'sgd'])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opt: str
) -> None:
    config = replace(config, opt=opt, grad_accum=2, batch_size=4, channels_last=True)
    unbroken = replace(config, output=str(tmp_path / 'unbroken'))
    train(unbroken)

    made = []
    original = training.update

    def update(*args: Any) -> torch.Tensor:
        made.append(None)
        if len(made) in (6, 15):  # at an epoch's last update, and within an epoch: there are six an epoch
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(training, 'update', update)
    handler_before = signal.getsignal(signal.SIGINT)
    stopped = train(config)
    assert (stopped.epoch, stopped.step) == (1, 0)
    resumed = train(replace(config, resume='auto'))
    assert (resumed.epoch, resumed.step) == (2, 3)
    # the configuration comes from the checkpoint where no data are named
    finished = train(TrainConfig(resume=config.output))
    assert len(made) == 18
    assert (finished.epoch, finished.step) == (3, 0)
    assert rows(config.output) == rows(unbroken.output)
    broken, whole = (checkpoint.load(Path(run.output) / 'last.safetensors') for run in (config, unbroken))
    assert equal(broken.weights, whole.weights)
    assert equal(broken.extra, whole.extra)
    assert signal.getsignal(signal.SIGINT) is handler_before  # whatever started the tests had set


def test_a_signal_to_the_whole_group_stops_cleanly(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `timeout` and batch systems do; the loader's workers get it too."""
    original = training.update

    def update(run: Any, *rest: Any) -> torch.Tensor:
        if (run.epoch, run.step) == (1, 1):
            for process in [*multiprocessing.active_children(), multiprocessing.current_process()]:
                os.kill(process.pid, signal.SIGTERM)
        return original(run, *rest)

    monkeypatch.setattr(training, 'update', update)
    stopped = train(replace(config, workers=2))
    assert (stopped.epoch, stopped.step) == (1, 2)
    assert checkpoint.load(Path(config.output), 'last').header['run']['step'] == 2


def test_who_will_not_wait_interrupts_by_a_second_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    with training.stop_signals() as event:
        for clock[0] in (5.0, 5.5):
            signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        clock[0] = 7.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_saving_within_an_epoch_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    often = replace(config, output=str(tmp_path / 'often'), save_updates=1)
    train(often)
    assert rows(often.output) == rows(config.output)


def test_accumulated_gradients_equal_a_large_batch(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, mixup=0, model_options={}, clip_grad=1.0)
    train(config)
    parts = replace(config, output=str(tmp_path / 'parts'), batch_size=4, grad_accum=3)
    train(parts)
    for one, other in zip(rows(config.output), rows(parts.output), strict=True):
        # sums of the same gradients in another order: rounding, which Adam's division enlarges
        assert one['train_loss'] == pytest.approx(other['train_loss'], rel=1e-4)


def test_two_processes_equal_one(config: TrainConfig, tmp_path: Path) -> None:
    # without drop path and mixup, whose random numbers are each process's own
    config = replace(config, mixup=0, model_options={}, opt='sgd', lr=0.02, clip_grad=5.0)
    train(config)
    values = {'data': config.data, 'output': str(tmp_path / 'two'), 'batch_size': 6}
    settings = yaml.safe_load((Path(config.output) / 'config.yaml').read_text())
    (tmp_path / 'two.yaml').write_text(yaml.safe_dump({**settings, **values}))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += ['-m', 'foveal.cli', 'train', '--config', str(tmp_path / 'two.yaml')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('epoch   1/3') == 1
    for one, two in zip(rows(config.output), rows(tmp_path / 'two'), strict=True):
        # the mean of two halves' gradients rounds otherwise than the mean of the whole
        assert two == pytest.approx(one, rel=1e-5)
    final = weights(tmp_path / 'two')
    for name, tensor in weights(Path(config.output)).items():
        assert torch.allclose(final[name], tensor, atol=1e-5), name


def test_bf16_and_checkpointing_train_nearly_alike(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, model_options={}, epochs=1)
    train(config)
    expected = rows(config.output)[0]['train_loss']
    for name, options, tolerance in (
        ('bf16', {'precision': 'bf16'}, 0.02),
        ('checkpointing', {'grad_checkpointing': True}, 1e-5),
        ('deterministic', {'deterministic': True}, 1e-5),
    ):
        run = replace(config, output=str(tmp_path / name), **options)
        train(run)
        assert rows(run.output)[0]['train_loss'] == pytest.approx(expected, rel=tolerance)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loss_that_is_no_number_ends_the_run(config: TrainConfig) -> None:
    with pytest.raises(FloatingPointError, match='try a lower lr'):
        train(replace(config, opt='sgd', lr=1e30, warmup_epochs=0))


def test_batch_norm_statistics_stay_where_there_is_one_process() -> None:
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(3)
    distributed.share_statistics(model, 'reduce')
    assert model.running_mean.tolist() == [3, 3]


# what cannot be done


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'data': ''}, 'data is missing'),
        ({'data': 'missing'}, "data folder 'missing' does not exist"),
        ({'batch_size': 0}, 'batch_size must be at least 1, got 0'),
        ({'batch_size': 100}, 'use a batch_size of at most 48'),
        ({'epochs': 0}, 'epochs must be at least 1, got 0'),
        ({'grad_accum': -1}, 'grad_accum must be at least 1, got -1'),
        ({'lr': 0}, 'lr must be above 0, got 0'),
        ({'smoothing': 1}, r'smoothing must be in \[0, 1\), got 1'),
        ({'warmup_epochs': 3}, r'warmup_epochs must be in \[0, epochs=3\), got 3'),
        ({'precision': 'fp8'}, "precision must be one of fp32, tf32, medium, bf16, .*, got 'fp8'"),
        ({'clip_grad': 0}, 'clip_grad must be above 0, got 0'),
        ({'workers': -1}, 'workers must be at least 0, got -1'),
        ({'device': 'gpu'}, "device 'gpu' cannot be used here"),
        ({'opt': 'adamv'}, "opt 'adamv' is unknown; did you mean 'adam"),
        ({'sched': 'cosin'}, "sched 'cosin' is unknown; did you mean 'cosine'"),
        ({'model': 'convnext_tony'}, "unknown model 'convnext_tony'; did you mean 'convnext_tiny"),
        ({'model_options': {'drop_pathrate': 0.1}}, 'drop_path_rate'),
        ({'model_options': {'in_chans': 4}}, 'the model takes 4 channels'),
        ({'train_crop_mode': 'rcc'}, 'train_crop_mode must be one of rrc, rkrc, rkrr, pad, none'),
        ({'val_split': 'extra'}, 'has no extra split, only train, val'),
        ({'resume': 'missing'}, 'checkpoint missing does not exist'),
    ],
)
def test_a_run_that_cannot_work_is_refused(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said):
        train(replace(config, **options))
    assert not (Path(config.output) / 'metrics.csv').exists()


def test_data_without_two_classes_or_without_validation_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    one = write_folder(tmp_path / 'one', per_class=4, red=(200, 0, 0))
    with pytest.raises(ValueError, match=r"one class only, \['red'\]"):
        train(replace(config, data=str(one)))
    bare = write_folder(tmp_path / 'bare', per_class=8) / 'train'
    with pytest.raises(ValueError, match=r'has no validation split.*give val_fraction'):
        train(replace(config, data=str(bare)))
    run = train(replace(config, data=str(bare), val_fraction=0.25, batch_size=6, epochs=1))
    assert len(run.history) == 1


def test_another_runs_folder_is_not_touched(config: TrainConfig) -> None:
    output = Path(config.output)
    output.mkdir()
    (output / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='already holds a run; choose another output'):
        train(config)
    assert [path.name for path in output.iterdir()] == ['notes.txt']
    with pytest.raises(OSError, match='cannot write to output'):
        train(replace(config, output=str(output / 'notes.txt' / 'run')))


def test_a_run_resumes_only_from_its_own_whole_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, epochs=1)
    train(config)
    last = Path(config.output) / 'last.safetensors'
    other = write_folder(tmp_path / 'other', per_class=16, pink=(250, 150, 200), grey=(90, 90, 90))
    for options, said in (
        ({'lr': 1.0}, 'trained with other options .lr: 0.002 there, 1.0 here'),
        ({'model': 'test_convnext2'}, "model: 'test_convnext' there, 'test_convnext2' here"),
        ({'data': str(other)}, 'has the 3 classes blue, green, red, the data have 2: grey, pink'),
        ({'batch_size': 6}, 'updates of 12 images, here 6'),
        ({'resume': str(Path(config.output) / 'best.safetensors')}, 'holds weights only'),
    ):
        with pytest.raises(ValueError, match=said):
            train(replace(config, **{'resume': config.output, **options}))
    whole = last.read_bytes()
    for length in (0, 4, 1000, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'last\.safetensors is damaged or no checkpoint'):
            train(replace(config, resume='auto'))
    last.write_bytes(whole)
    assert train(replace(config, resume='auto', epochs=2, warmup_epochs=0.5)).epoch == 2


# on disk


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'file.txt'
    write_text(path, 'old')

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text('ne')
            raise RuntimeError('in the middle')

    with pytest.raises(RuntimeError, match='in the middle'):
        write_half()

    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    for function in ('fsync', 'replace'):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match='No space left'):
                write_text(path, 'new')
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file.txt']
    write_text(path, 'new')
    assert path.read_text() == 'new'
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_process_killed_while_saving_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / 'last.safetensors'
    checkpoint.save(path, nn.Linear(2, 2), {'epoch': 1}, {})
    script = (
        'import os, sys, torch\n'
        'from pathlib import Path\n'
        'from foveal.engine import checkpoint\n'
        'write = checkpoint.save_file\n'
        'def half(tensors, path, header):\n'
        '    write(tensors, path, header); os.truncate(path, 100); os._exit(9)\n'
        'checkpoint.save_file = half\n'
        'checkpoint.save(Path(sys.argv[1]), torch.nn.Linear(2, 2), {"epoch": 2}, {})\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent)}
    assert subprocess.run([sys.executable, '-c', script, path], env=environment, check=False).returncode == 9
    assert checkpoint.load(path).header['epoch'] == 1


def test_what_can_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(None)
    check_writable(tmp_path / 'new.json')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        check_writable(tmp_path / 'missing' / 'new.json')
    with pytest.raises(IsADirectoryError, match='it is a folder'):
        check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


class Tied(nn.Module):
    """Two names for one parameter, an empty buffer, kernels in another memory order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer('empty', torch.zeros(0))
        self.register_buffer('count', torch.tensor(5))


def test_weights_and_optimizer_come_back_as_they_were(tmp_path: Path) -> None:
    model = Tied()
    optimizer = create_optimizer(model, 'adamw', 0.1, 0.05)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    tensors, rest = checkpoint.pack_optimizer(optimizer)
    checkpoint.save(tmp_path / 'a.safetensors', model, {'rest': rest}, tensors)
    saved = checkpoint.load(tmp_path / 'a.safetensors')
    assert equal(saved.weights, dict(model.state_dict()))

    other = Tied()
    other.load_state_dict(saved.weights)
    fresh = create_optimizer(other, 'adamw', 0.5)
    checkpoint.unpack_optimizer(fresh, saved.extra, saved.header['rest'])
    assert fresh.param_groups[0]['lr'] == 0.1
    assert fresh.param_groups[0]['betas'] == optimizer.param_groups[0]['betas']
    assert fresh.state[other.conv.weight]['exp_avg'].is_contiguous(memory_format=torch.channels_last)
    for m, o in ((model, optimizer), (other, fresh)):
        o.zero_grad()
        sum(parameter.square().sum() for parameter in m.parameters()).backward()
        o.step()
    assert equal(dict(model.state_dict()), dict(other.state_dict()))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ('a checkpoint was unpickled',)


def test_checkpoints_of_other_kinds_are_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / 'pickle.safetensors').write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match='damaged or no checkpoint'):
        checkpoint.load(tmp_path / 'pickle.safetensors')
    checkpoint.save_file({'a': torch.zeros(2)}, tmp_path / 'bare.safetensors')
    with pytest.raises(ValueError, match='not which model they are of'):
        checkpoint.load(tmp_path / 'bare.safetensors')
    with pytest.raises(FileNotFoundError, match=r'holds no best\.safetensors or last\.safetensors'):
        checkpoint.load(tmp_path)


# parts


def test_scores_equal_a_count_by_hand(folder: Path) -> None:
    torch.manual_seed(0)
    model = create_model('test_convnext', num_classes=7)
    data = create_dataset(root=folder, split='train')
    loader = create_loader(data, 32, batch_size=5)
    scores = evaluate(model.train(), loader, OneLabel([*data.classes, 'd', 'e', 'f', 'g']))
    assert isinstance(scores, Scores)
    assert not model.training
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in loader])
    truth = torch.tensor(data.targets)
    order = logits.argsort(1, descending=True)
    assert scores.count == 48
    assert scores.loss == pytest.approx(cross_entropy(logits, truth).item(), rel=1e-5)
    assert scores.top1 == pytest.approx(100 * (order[:, 0] == truth).float().mean().item())
    hits = sum(int(t in row[:5]) for t, row in zip(truth.tolist(), order.tolist(), strict=True))
    assert scores.top5 == pytest.approx(100 * hits / 48)
    by_hand = np.zeros((7, 7), int)
    np.add.at(by_hand, (truth.numpy(), order[:, 0].numpy()), 1)
    np.testing.assert_array_equal(scores.confusion, by_hand)
    table = scores.per_class([*data.classes, 'd', 'e', 'f', 'g'])
    assert [row['count'] for row in table] == [16, 16, 16, 0, 0, 0, 0]
    assert table[0]['recall'] == pytest.approx(100 * by_hand[0, 0] / 16, abs=1e-3)
    assert table[6]['recall'] is None


def test_signals_outside_the_main_thread_are_left_alone() -> None:
    found = []

    def inside() -> None:
        with training.stop_signals() as event:
            found.append(event.is_set())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_run_on_a_stream_goes_on_from_the_block_that_it_stopped_in(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('foveal.data.stream.BLOCK', 8)
    assert cli.main(f'data pack {config.data} {tmp_path}/packed --shard_size 16'.split()) == 0
    system, images = fsspec.filesystem('memory'), len(list(Path(config.data, 'train').rglob('*.png')))
    for shard in Path(tmp_path, 'packed').glob('*.tar'):  # without their indices, so that they are read in their order
        system.pipe(f'/colours/{shard.name}', shard.read_bytes())
    classes = tmp_path / 'classes.txt'
    classes.write_text('\n'.join(sorted(path.name for path in Path(config.data, 'train').iterdir())))
    config = replace(config, data='wds/', data_root='memory://colours', class_map=str(classes), epochs=2, batch_size=4)
    config.train_num_samples = images
    unbroken = replace(config, output=str(tmp_path / 'unbroken'))
    train(unbroken)

    original, read = training.update, []
    walk = StreamSampler.walk

    def counted(*args: Any) -> Iterator[Any]:
        for found in walk(*args):
            read.append(found)
            yield found

    def update(run: Any, *rest: Any) -> torch.Tensor:
        if (run.epoch, run.step) == (1, 8):
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *rest)

    monkeypatch.setattr(training, 'update', update)
    stopped = train(config)
    assert (stopped.epoch, stopped.step) == (1, 9)
    monkeypatch.setattr(StreamSampler, 'walk', counted)
    monkeypatch.setattr(training, 'update', original)
    monkeypatch.setattr(training, 'judge', lambda *_: None)
    train(replace(config, resume='auto'))
    assert equal(weights(Path(config.output)), weights(Path(unbroken.output)))
    # what is left, and the block that was begun
    assert 0 < len(read) <= images - 9 * 4 + 8
