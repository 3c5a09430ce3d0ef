"""Who started the processes of a run: torchrun says so in torch's own words, SLURM and MPI in theirs."""

import re
from collections.abc import Mapping

LOCAL = '127.0.0.1'
PORTS = range(20_000, 30_000)  # below those that systems give away by themselves


def find(environment: Mapping[str, str]) -> dict[str, str]:
    """What torch wants to know of a process that srun or mpirun started.

    Args:
        environment: Of the process.

    Returns:
        RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; what the environment has of them stays. Nothing
        under torchrun, and nothing for a process that is alone.

    Raises:
        ValueError: Several machines, and no way to tell the first one's address; or a number that is none.
    """
    if 'WORLD_SIZE' in environment:
        return {}
    for launcher in (of_slurm, of_open_mpi, of_mpi):
        found = launcher(environment)
        if found and number(environment, found[1]) > 1:
            break
    else:
        return {}
    rank, size, local, address, job = found
    if address is None:
        raise ValueError(
            f'{size} says {environment[size]} processes, on several machines: '
            'give the first one as MASTER_ADDR in the environment (mpirun -x MASTER_ADDR=...)'
        )
    port = PORTS[int(re.sub(r'\D', '', environment.get(job, '')) or 0) % len(PORTS)]
    said = {
        'RANK': str(number(environment, rank)),
        'WORLD_SIZE': str(number(environment, size)),
        'LOCAL_RANK': str(number(environment, local)),
        'MASTER_ADDR': address,
        'MASTER_PORT': str(port),
    }
    return {name: environment.get(name, value) for name, value in said.items()}


Found = tuple[str, str, str, str | None, str]  # variables of rank, size and local rank; address; variable of the job


def of_slurm(environment: Mapping[str, str]) -> Found | None:
    """A task of srun. A batch script has a rank too, but no step: it is one process that nobody joins."""
    if 'SLURM_PROCID' not in environment or not environment.get('SLURM_STEP_NODELIST'):
        return None
    size = 'SLURM_STEP_NUM_TASKS' if 'SLURM_STEP_NUM_TASKS' in environment else 'SLURM_NTASKS'
    first = first_host(environment['SLURM_STEP_NODELIST'])
    return 'SLURM_PROCID', size, 'SLURM_LOCALID', environment.get('MASTER_ADDR', first), 'SLURM_JOB_ID'


def of_open_mpi(environment: Mapping[str, str]) -> Found | None:
    """A process of Open MPI's mpirun."""
    names = [f'OMPI_COMM_WORLD_{name}' for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')]
    if any(name not in environment for name in names):
        return None
    rank, size, local, here = names
    alone = environment[here] == environment[size]
    return rank, size, local, environment.get('MASTER_ADDR', LOCAL if alone else None), 'PMIX_NAMESPACE'


def of_mpi(environment: Mapping[str, str]) -> Found | None:
    """A process of MPICH's, Intel's or Cray's mpirun, which speak PMI; without a local rank it is alone on a machine
    with all others."""
    if 'PMI_RANK' not in environment or 'PMI_SIZE' not in environment:
        return None
    local, here = 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS'
    if local not in environment:
        return 'PMI_RANK', 'PMI_SIZE', 'PMI_RANK', environment.get('MASTER_ADDR', LOCAL), ''
    alone = environment.get(here) == environment['PMI_SIZE']
    return 'PMI_RANK', 'PMI_SIZE', local, environment.get('MASTER_ADDR', LOCAL if alone else None), ''


def number(environment: Mapping[str, str], name: str) -> int:
    """A variable that has to be a number.

    Raises:
        ValueError: It is missing or none.
    """
    value = environment.get(name, '')
    if not value.isdecimal():
        raise ValueError(f'{name} in the environment must be a whole number, got {value!r}')
    return int(value)


def first_host(nodes: str) -> str:
    """The first machine of SLURM's short form: of `gpu[007-010,12],login` it is gpu007."""
    found = re.match(r'([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)', nodes)
    return ''.join(part or '' for part in found.groups()) if found else nodes
