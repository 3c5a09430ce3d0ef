"""Every optimizer by name: where its class is, what it is, and the options that the name stands for.

Naming: a leading `c` is cautious (arXiv:2411.16085), a trailing `w` decouples weight decay, a trailing `c` corrects it
by lr / peak lr (arXiv:2506.02285), a leading `n` is Nesterov's momentum. `lambc` and `larc` clip the trust ratio.
"""

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        target: `module:Class`; without a dot the module is one of `foveal.optim`.
        description: One line.
        defaults: Options that the name stands for.
        takes: Arguments of a class that cannot be imported everywhere.
    """

    target: str
    description: str
    defaults: dict[str, Any]
    takes: tuple[str, ...] = ()


CAUTIOUS = {'caution': True}
CORRECTED = {'corrected_weight_decay': True}
DECOUPLED = {'decoupled_decay': True}
NESTEROV = {'nesterov': True}
CLIPPED = {'trust_clip': True}
ALPHA = {'alpha': 0.9}


def rows(target: str, text: str, **names: dict[str, Any]) -> dict[str, Entry]:
    """Entries of one class; what a name adds is told from its options."""
    words = {
        'caution': 'cautious',
        'corrected_weight_decay': 'corrected decay',
        'decoupled_decay': 'decoupled decay',
        'decoupled': 'decoupled decay',
        'decoupled_weight_decay': 'decoupled decay',
        'no_prox': 'decoupled decay',
        'nesterov': 'Nesterov momentum',
        'trust_clip': 'clipped trust ratio',
        'rectify': 'rectified',
    }
    table = {}
    for name, defaults in names.items():
        told = [words[key] for key, value in defaults.items() if value is True and key in words]
        table[name] = Entry(target, ', '.join([text, *told]), defaults)
    return table


TORCH: dict[str, Entry] = {
    **rows('torch.optim:SGD', 'torch: SGD', sgd=NESTEROV, nesterov=NESTEROV, momentum={'nesterov': False}),
    **rows('torch.optim:Adam', 'torch: Adam', adam={}),
    **rows('torch.optim:AdamW', 'torch: Adam with decoupled decay', adamw={}),
    **rows('torch.optim:NAdam', 'torch: Adam with Nesterov momentum', nadam={}),
    **rows('torch.optim:RAdam', 'torch: rectified Adam', radam={}, radamw={'decoupled_weight_decay': True}),
    **rows('torch.optim:Adamax', 'torch: Adam by the infinity norm', adamax={}),
    **rows('torch.optim:Adadelta', 'torch: rates from windows of past gradients', adadelta={}),
    **rows('torch.optim:Adagrad', 'torch: rates from the sum of squared gradients', adagrad={'eps': 1e-8}),
    **rows('torch.optim:RMSprop', 'torch: division by the root mean square', rmsprop=ALPHA),
}

OURS: dict[str, Entry] = {
    **rows(
        'sgdw:SGDW',
        'SGD with decoupled decay',
        sgdw=NESTEROV,
        nesterovw=NESTEROV,
        sgdc=NESTEROV | CORRECTED,
        csgdw=NESTEROV | CAUTIOUS,
        csgdc=NESTEROV | CAUTIOUS | CORRECTED,
    ),
    **rows(
        'adamw:AdamWLegacy',
        'AdamW with update clipping',
        adamwlegacy={},
        adamc=CORRECTED,
        cadamw=CAUTIOUS,
        cadamc=CAUTIOUS | CORRECTED,
    ),
    **rows('nadam:NAdamLegacy', 'NAdam as it was before it came to torch', nadamlegacy={}),
    **rows(
        'nadam:NAdamW',
        'AdamW with Nesterov momentum',
        nadamw={},
        nadamc=CORRECTED,
        cnadamw=CAUTIOUS,
        cnadamc=CAUTIOUS | CORRECTED,
    ),
    **rows('radam:RAdamLegacy', 'rectified Adam as it was before it came to torch', radamlegacy={}),
    **rows(
        'adamp:AdamP',
        'Adam without growth of scale-invariant weights',
        adamp={'wd_ratio': 0.01} | NESTEROV,
        cadamp={'wd_ratio': 0.01} | NESTEROV | CAUTIOUS,
    ),
    **rows('adamp:SGDP', 'SGD without growth of scale-invariant weights', sgdp=NESTEROV, csgdp=NESTEROV | CAUTIOUS),
    **rows(
        'adafactor:Adafactor',
        'Adam with a factored second moment',
        adafactor={},
        cadafactor=CAUTIOUS | {'betas': (0.9, 0.999)},
    ),
    **rows(
        'adafactor_bv:AdafactorBigVision',
        'Adafactor for vision transformers, momentum in half precision',
        adafactorbv={},
        adafactorbvc=CORRECTED,
        cadafactorbv=CAUTIOUS,
        cadafactorbvc=CAUTIOUS | CORRECTED,
    ),
    **rows(
        'adabelief:AdaBelief',
        'Adam by the deviation from the expected gradient',
        adabelief={'rectify': False},
        radabelief={'rectify': True},
    ),
    **rows(
        'lamb:Lamb',
        'LAMB: Adam scaled to the norm of each tensor',
        lamb={},
        lambc=CLIPPED,
        lambw=DECOUPLED,
        lambcw=CLIPPED | DECOUPLED,
        lambcd=DECOUPLED | CORRECTED,
        clamb=CAUTIOUS,
        clambw=CAUTIOUS | DECOUPLED,
    ),
    **rows(
        'lars:Lars',
        'LARS: SGD scaled to the norm of each tensor',
        lars={},
        larc=CLIPPED,
        nlars=NESTEROV,
        nlarc=NESTEROV | CLIPPED,
    ),
    **rows(
        'lion:Lion', 'Lion: sign of the momentum', lion={}, lionc=CORRECTED, clion=CAUTIOUS, clionc=CAUTIOUS | CORRECTED
    ),
    **rows(
        'novograd:NvNovoGrad',
        'NovoGrad: Adam with one second moment a tensor',
        novograd={},
        novogradw=DECOUPLED,
        novogradc=DECOUPLED | CORRECTED,
    ),
    **rows(
        'rmsprop_tf:RMSpropTF',
        'RMSprop as in TensorFlow',
        rmsproptf=ALPHA,
        rmsproptfw=ALPHA | DECOUPLED,
        rmsproptfc=ALPHA | DECOUPLED | CORRECTED,
        crmsproptf=ALPHA | CAUTIOUS,
    ),
    # list B
    **rows(
        'adan:Adan',
        'Adan: momentum of the change of the gradient',
        adan={'no_prox': False},
        adanw={'no_prox': True},
        cadan=CAUTIOUS | {'no_prox': False},
        cadanw=CAUTIOUS | {'no_prox': True},
    ),
    **rows(
        'adopt:Adopt',
        'ADOPT: Adam that converges with any beta2',
        adopt={},
        adoptw={'decoupled': True},
        adoptc={'decoupled': True} | CORRECTED,
        cadopt=CAUTIOUS,
        cadoptw={'decoupled': True} | CAUTIOUS,
        cadoptc={'decoupled': True} | CAUTIOUS | CORRECTED,
    ),
    **rows('laprop:LaProp', 'LaProp: momentum after the division', laprop={}, lapropc=CORRECTED, claprop=CAUTIOUS),
    **rows('madgrad:MADGRAD', 'MADGRAD: dual averaging with momentum', madgrad={}, madgradw=DECOUPLED),
    **rows('mars:Mars', 'MARS: variance-reduced AdamW or Lion', mars={}, cmars=CAUTIOUS),
    **rows(
        'muon:Muon',
        'Muon: orthogonalized momentum, AdamW for vectors',
        muon={},
        nmuon=NESTEROV,
        adamuon={'algo': 'adamuon'},
        nadamuon={'algo': 'adamuon'} | NESTEROV,
    ),
    **rows('kron:Kron', 'PSGD with Kronecker factors', kron={}, kronw=DECOUPLED, kronc=DECOUPLED | CORRECTED),
    **rows('adahessian:Adahessian', 'Adam by the diagonal of the Hessian', adahessian={}),
    **rows('schedulefree:AdamWScheduleFree', 'AdamW that needs no schedule', adamwschedulefree={}),
    **rows('schedulefree:SGDScheduleFree', 'SGD that needs no schedule', sgdschedulefree={}),
    **rows('soap:SOAP', "SOAP: Adam in the eigenbasis of Shampoo's factors", soap={}),
    **rows('sophia:Sophia', 'Sophia: clipped steps by the diagonal of the Hessian', sophia={}),
    **rows('prodigy:Prodigy', 'Prodigy: Adam that finds its learning rate', prodigy={}),
}


def external(package: str, name: str, cls: str, takes: str, **defaults: Any) -> dict[str, Entry]:
    """An entry of a package that users install themselves."""
    title = {'apex': 'NVIDIA apex', 'bitsandbytes': 'bitsandbytes'}[package]
    module = f'{package}.optim' + ('izers' if package == 'apex' else '')
    return {name: Entry(f'{module}:{cls}', f'{title}: {cls}', defaults, tuple(takes.split()))}


ADAPTIVE = 'eps betas'
EXTERNAL: dict[str, Entry] = {
    **external('apex', 'fusedsgd', 'FusedSGD', 'momentum', nesterov=True),
    **external('apex', 'fusedadam', 'FusedAdam', ADAPTIVE, adam_w_mode=False),
    **external('apex', 'fusedadamw', 'FusedAdam', ADAPTIVE, adam_w_mode=True),
    **external('apex', 'fusedlamb', 'FusedLAMB', ADAPTIVE),
    **external('apex', 'fusednovograd', 'FusedNovoGrad', ADAPTIVE, betas=(0.95, 0.98)),
    **external('bitsandbytes', 'bnbsgd', 'SGD', 'momentum', nesterov=True),
    **external('bitsandbytes', 'bnbsgd8bit', 'SGD8bit', 'momentum', nesterov=True),
    **external('bitsandbytes', 'bnbadam', 'Adam', ADAPTIVE),
    **external('bitsandbytes', 'bnbadam8bit', 'Adam8bit', ADAPTIVE),
    **external('bitsandbytes', 'bnbadamw', 'AdamW', ADAPTIVE),
    **external('bitsandbytes', 'bnbadamw8bit', 'AdamW8bit', ADAPTIVE),
    **external('bitsandbytes', 'bnblion', 'Lion', 'betas'),
    **external('bitsandbytes', 'bnblion8bit', 'Lion8bit', 'betas'),
    **external('bitsandbytes', 'bnbademamix', 'AdEMAMix', ADAPTIVE),
    **external('bitsandbytes', 'bnbademamix8bit', 'AdEMAMix8bit', ADAPTIVE),
}

TABLE: dict[str, Entry] = {**TORCH, **OURS, **EXTERNAL}
