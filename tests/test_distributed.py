"""Several processes: how they find each other, what they share, and that they learn what one learns."""

import copy
import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from foveal import create_model
from foveal.engine import checkpoint, distributed, launchers
from foveal.engine.config import TrainConfig
from foveal.engine.train import train
from foveal.layers import convert_sync_batchnorm
from foveal.layers.norm_act import BatchNormAct2d
from tests.images import write_folder
from tests.processes import together
from tests.soak import CLOCK

# few operations of little cost, so that a second thread would only wait for the first
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
# means over two halves round otherwise than means over the whole, by a few of float32's steps (6e-8) an update
TOLERANCE = 1e-6


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('data') / 'colours', per_class=8)


@pytest.fixture
def config(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run of two epochs of two updates of a model with batch norms."""
    return replace(config, model='test_resnet', opt='sgd', lr=0.02, ema=0.9, output=str(tmp_path / 'one'))


def rows(run: str | Path) -> list[dict[str, float]]:
    """metrics.csv without what a clock says."""
    with (Path(run) / 'metrics.csv').open() as file:
        return [{key: float(value) for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]


def assert_equal(one: str | Path, other: str | Path, tolerance: float) -> None:
    """Loss curves, weights, running means and optimizers agree."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a == pytest.approx(b, abs=tolerance, rel=tolerance)
    ours, theirs = checkpoint.load(one, 'last'), checkpoint.load(other, 'last')
    close_each(ours.weights | ours.extra, theirs.weights | theirs.extra, tolerance)


def close_each(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Tensors of the same names agree."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=tolerance, msg=name)


# who starts the processes

SLURM = {'SLURM_PROCID': '3', 'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1', 'SLURM_JOB_ID': '4217'}
STEP = {'SLURM_STEP_NODELIST': 'gpu[007-010,12],login'}
MPI = {f'OMPI_COMM_WORLD_{name}': value for name, value in (('RANK', '3'), ('SIZE', '4'), ('LOCAL_RANK', '3'))}
PMI = {'PMI_RANK': '1', 'PMI_SIZE': '2'}


@pytest.mark.parametrize(
    ('environment', 'found'),
    [
        (SLURM | STEP, '3 8 1 gpu007 24217'),
        (SLURM | STEP | {'MASTER_ADDR': 'here', 'MASTER_PORT': '5'}, '3 8 1 here 5'),
        (SLURM | {'SLURM_STEP_NODELIST': 'a-1,a-2', 'SLURM_STEP_NUM_TASKS': '2'}, '3 2 1 a-1 24217'),
        (SLURM, ''),  # a batch script, which nobody joins
        (SLURM | STEP | {'SLURM_NTASKS': '1'}, ''),
        (SLURM | STEP | {'WORLD_SIZE': '2'}, ''),  # torchrun, started by srun
        (MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '4'}, '3 4 3 127.0.0.1 20000'),
        (MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '2', 'MASTER_ADDR': 'first'}, '3 4 3 first 20000'),
        (PMI, '1 2 1 127.0.0.1 20000'),
        (PMI | {'MPI_LOCALRANKID': '0', 'MPI_LOCALNRANKS': '1', 'MASTER_ADDR': 'first'}, '1 2 0 first 20000'),
        ({}, ''),
    ],
)
def test_launchers(environment: dict[str, str], found: str) -> None:
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    assert launchers.find(environment) == (dict(zip(names, found.split(), strict=True)) if found else {})


@pytest.mark.parametrize(
    ('environment', 'said'),
    [
        (MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '2'}, 'OMPI_COMM_WORLD_SIZE says 4 processes, on several.*MASTER_ADDR'),
        (SLURM | STEP | {'SLURM_PROCID': 'x'}, "SLURM_PROCID in the environment must be a whole number, got 'x'"),
    ],
)
def test_launchers_that_do_not_say_enough(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        launchers.find(environment)


START = """
from foveal.engine import distributed
import torch
process = distributed.start('cpu', 1)
print(process.rank, process.world_size, distributed.total(torch.tensor(1 + process.rank)).item())
distributed.finish()
"""


def test_processes_of_srun_and_mpirun_find_each_other(unused_port: int) -> None:
    """One of each, since either is to say the same."""
    slurm = {'SLURM_PROCID': '0', 'SLURM_NTASKS': '2', 'SLURM_LOCALID': '0', 'SLURM_STEP_NODELIST': 'localhost'}
    values = {'RANK': '1', 'SIZE': '2', 'LOCAL_RANK': '1', 'LOCAL_SIZE': '2'}
    mpi = {f'OMPI_COMM_WORLD_{name}': value for name, value in values.items()}
    started = []
    for said in (slurm, mpi):
        environment = {**os.environ, **said, 'MASTER_PORT': str(unused_port), 'PYTHONPATH': str(ROOT)}
        command = [sys.executable, '-W', 'error', '-c', START]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    assert [process.communicate(timeout=60)[0].split() for process in started] == [['0', '2', '3'], ['1', '2', '3']]


@pytest.fixture
def unused_port() -> int:
    store = dist.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    return store.port


# what they learn


def test_two_processes_learn_what_one_learns(config: TrainConfig, tmp_path: Path) -> None:
    """Batch norms included, where they take their statistics over all images."""
    train(config)
    two = replace(config, output=str(tmp_path / 'two'), batch_size=6)
    together(2, train, replace(two, sync_bn=True))
    # a variance of few elements, and what is divided by its root, rounds coarser
    assert_equal(two.output, config.output, 10 * TOLERANCE)
    together(2, train, replace(two, output=str(tmp_path / 'apart')))
    with pytest.raises(AssertionError):
        assert_equal(tmp_path / 'apart', config.output, 10 * TOLERANCE)


def without_key_biases(saved: checkpoint.Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a run of a ViT, with zeros for the biases of its keys.

    A bias of all keys adds the same to all scores of a query, which softmax leaves as it is: its gradient is zero, and
    what is computed for it is rounding. Adam divides that by its own size, and makes steps of full length of it.
    """
    tensors = saved.weights | saved.extra
    for name in [name for name in tensors if name.endswith('attn.qkv.bias')]:
        q, k, v = tensors[name].chunk(3)
        tensors[name] = torch.cat([q, torch.zeros_like(k), v])
    return tensors


@pytest.mark.parametrize('clip', [None, 0.5])
def test_two_processes_learn_by_adamw_what_one_learns(config: TrainConfig, tmp_path: Path, clip: float | None) -> None:
    # Adam divides a gradient by its own size. Where that is all rounding the step is still one of full length, and
    # with eps 1e-8 one of 12,288 elements came to 1.04e-6 on one processor; with 1e-6 the furthest is at 8e-8.
    config = replace(config, model='test_vit', opt='adamw', lr=1e-3, opt_options={'eps': 1e-6}, clip_grad=clip)
    train(config)
    two = replace(config, output=str(tmp_path / 'two'), batch_size=6)
    together(2, train, two)
    for a, b in zip(rows(two.output), rows(config.output), strict=True):
        assert a == pytest.approx(b, abs=TOLERANCE, rel=TOLERANCE)
    found, expected = (without_key_biases(checkpoint.load(run.output, 'last')) for run in (two, config))
    assert sum(name.endswith('attn.qkv.bias') for name in found) > 2
    close_each(found, expected, TOLERANCE)


def test_gradients_of_key_biases_are_rounding() -> None:
    """2^-52 and not 2^-23 of the other gradients in float64: so they are zero."""
    torch.manual_seed(0)
    model = create_model('test_vit', num_classes=3).double()
    model(torch.randn(4, 3, *model.pretrained_cfg.input_size[1:], dtype=torch.float64)).square().sum().backward()
    biases = [p.grad for name, p in model.named_parameters() if name.endswith('attn.qkv.bias')]
    assert biases
    for gradient in biases:
        q, k, v = gradient.chunk(3)
        assert k.abs().max() < 1e-13 * v.abs().max()
        assert q.abs().max() > 1e-6 * v.abs().max()


def norms(folder: Path) -> None:
    """Half a batch on each of two processes gives what the whole gives on one: outputs, gradients, statistics."""
    made: list[Callable[[], nn.Module]] = [
        lambda: BatchNormAct2d(5, 'relu'),
        lambda: nn.BatchNorm1d(5, momentum=None),
        lambda: nn.BatchNorm2d(5, affine=False),
    ]
    for make in made:
        torch.manual_seed(0)
        whole = make()
        parts = convert_sync_batchnorm(copy.deepcopy(whole))
        shape = (8, 5) if isinstance(whole, nn.BatchNorm1d) else (8, 5, 3, 3)
        x, gradient = torch.randn(shape, requires_grad=True), torch.randn(shape)
        mine = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        part = x.detach()[mine].requires_grad_()
        for _ in range(2):
            expected, found = whole(x), parts(part)
        expected.backward(gradient)
        found.backward(gradient[mine])
        assert x.grad is not None
        close(found, expected[mine])
        close(part.grad, x.grad[mine])
        for (name, value), other in zip(parts.named_buffers(), whole.buffers(), strict=True):
            close(value, other, msg=name)
        for value, other in zip(parts.parameters(), whole.parameters(), strict=True):
            dist.all_reduce(value.grad)
            close(value.grad, other.grad)
        close(parts.eval()(x), whole.eval()(x))
    (folder / f'{dist.get_rank()}').touch()


def close(found: torch.Tensor | None, expected: torch.Tensor | None, msg: str | None = None) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, msg=msg)


def test_synchronised_norms(tmp_path: Path) -> None:
    together(2, norms, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['0', '1']


def statistics(folder: Path) -> None:
    rank = dist.get_rank()
    for how, expected in (('reduce', 1.0), ('broadcast', 0.0), ('none', 2.0 * rank)):
        model = nn.Sequential(nn.BatchNorm1d(2))
        model.register_buffer('table', torch.full((1,), float(rank)))
        model[0].running_mean.fill_(2.0 * rank)
        distributed.share_statistics(model, how)
        assert model[0].running_mean.tolist() == [expected] * 2, how
        assert model.table.item() == rank
    (folder / f'{rank}').touch()


def test_statistics_are_shared_as_asked(tmp_path: Path) -> None:
    together(2, statistics, tmp_path)
    assert len(os.listdir(tmp_path)) == 2


def test_an_unknown_way_to_share_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="dist_bn must be one of reduce, broadcast, none, got 'mean'"):
        train(replace(config, dist_bn='mean'))


# a process that is lost

KILLED_ONCE = """
import os, signal, sys
from foveal.engine import train as training
from foveal.cli import main
original = training.update
def update(run, *rest):
    attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])
    if os.environ['RANK'] == '1' and (attempt, run.epoch, run.step) == (0, 1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(run, *rest)
training.update = update
sys.exit(main(['train', '--config', sys.argv[1]]))
"""


def test_torchrun_restarts_a_run_that_lost_a_process(config: TrainConfig, tmp_path: Path) -> None:
    """It ends as one that lost none, bit for bit."""
    config = replace(config, batch_size=6, save_updates=1, resume='auto')
    together(2, train, config)
    broken = tmp_path / 'broken'
    settings = yaml.safe_load((Path(config.output) / 'config.yaml').read_text())
    settings |= {'output': str(broken), 'resume': 'auto'}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(settings))
    (tmp_path / 'main.py').write_text(KILLED_ONCE)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += ['--max-restarts', '1', '--monitor-interval', '0.1', str(tmp_path / 'main.py'), f'{tmp_path}/run.yaml']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith('foveal:')]
    assert done.returncode == 0, said or done.stderr[-2000:]
    assert len(re.findall(rf'exitcode: -{signal.SIGKILL.value}', done.stderr)) == 1
    assert done.stdout.count('going on after 1 epochs and 1 updates') == 1
    assert_equal(broken, config.output, 0)
