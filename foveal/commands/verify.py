"""`foveal verify`: does a result of `foveal validate` come out again?"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from foveal.engine.judging import ValidateConfig, check_judging

FIGURES = (
    'count', 'loss', 'top1', 'top5', 'map', 'micro_f1', 'macro_f1', 'sample_f1', 'mae', 'rmse', 'r2', 'real_count',
    'real_top1', 'real_top5', 'ece', 'left_out', 'params',
)  # fmt: skip


@dataclass
class VerifyConfig:
    """Run a validation again and say what differs: figures, weights, data, preprocessing, versions.

    The exit status is 1 where figures, weights, data or preprocessing differ.
    """

    result: str
    """A .json file that `foveal validate --output` wrote."""
    tolerance: float = 1e-4
    """By which share of its value a figure may differ: sums in another order round otherwise."""
    device: str = 'auto'
    """auto (cuda where there is one), cpu, cuda, ..."""
    workers: int = 2
    """Processes that read images; 0: none."""
    batch_size: int = 0
    """Images a step; 0: as then."""


def run(config: VerifyConfig) -> int:
    """Measures again and compares; returns the exit status.

    Raises:
        ValueError, OSError: No such result, or what it was measured with is gone.
    """
    from foveal.engine.results import read_results

    if not config.result.endswith('.json'):
        raise ValueError(f'verify needs the .json file of a result, which tells its options; got {config.result}')
    if config.tolerance < 0:
        raise ValueError(f'tolerance must be at least 0, got {config.tolerance}')
    results = read_results(config.result)
    if not results:
        raise FileNotFoundError(f'result {config.result} does not exist')
    statuses = [verify(old, config) for old in results if not old.get('error')]
    return max(statuses, default=0)


def verify(old: Mapping[str, Any], config: VerifyConfig) -> int:
    """Measures one result again and prints what differs."""
    from foveal.engine import distributed
    from foveal.engine.provenance import differing
    from foveal.engine.validate import Validator

    asked = as_asked(old, config)
    check_judging(asked)
    process = distributed.start(config.device, asked.threads)
    try:
        new = Validator(asked, process)(asked.source).result
    finally:
        distributed.finish()
    if not process.is_main:
        return 0
    kept = {name: value for name, value in old.items() if name in FIGURES}
    measured = {name: value for name, value in new.items() if name in FIGURES}
    hashes = {'weights': 'weights_hash', 'data': 'data_hash'}
    found = [
        *(('figure', said) for said in differing(kept, measured, config.tolerance)),
        *(
            (what, f'hash {str(old.get(key))[:12]} there, {str(new.get(key))[:12]} here')
            for what, key in hashes.items()
            if old.get(key) != new.get(key)
        ),
        *(('preprocessing', said) for said in differing(old['preprocess'], plain(new['preprocess']))),
        *(('version', said) for said in differing(old['versions'], new['versions'])),
    ]
    grave = [what for what, _ in found if what != 'version']
    print(f'{asked.source} on {asked.data}: {"differs" if grave else "the same"} ({len(measured)} figures)')
    for what, said in found:
        print(f'  {what} {said}')
    return int(bool(grave))


def as_asked(old: Mapping[str, Any], config: VerifyConfig) -> ValidateConfig:
    """The options of an old result, on this machine.

    Raises:
        ValueError: The file does not hold them.
    """
    said = old.get('config')
    known = {field.name for field in fields(ValidateConfig)}
    if not isinstance(said, dict) or not {'source', 'data'} <= said.keys():
        raise ValueError(f'{config.result} does not hold the options of its measurement')
    if unknown := sorted(said.keys() - known):
        raise ValueError(f'{config.result} was measured with options that this version lacks: {", ".join(unknown)}')
    own: dict[str, Any] = {'device': config.device, 'workers': config.workers, 'output': None, 'report': None}
    if config.batch_size:
        own['batch_size'] = config.batch_size
    return ValidateConfig(**{**said, **own})


def plain(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """A preprocessing as JSON gives it back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.items()}
