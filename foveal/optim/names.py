"""Every optimizer by name: where its class is, what it is, and the options that the name stands for."""

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """What a name stands for."""

    target: Any  # a class, or `module:Class`; without a dot the module is one of `foveal.optim`
    description: str  # one line
    defaults: dict[str, Any]  # options that the name stands for
    takes: tuple[str, ...] = ()  # arguments of a class that cannot be imported everywhere


# A row a class: what it is, and its names, each followed by letters for the options that it stands for. In the names a
# leading c is cautious (arXiv:2411.16085), a trailing w decouples weight decay, a trailing c corrects it by
# lr / peak lr (arXiv:2506.02285), a leading n is Nesterov's momentum; lambc and larc clip the trust ratio.
ROWS = """
torch.optim:SGD        | torch: SGD                                        | sgd/n nesterov/n momentum/N
torch.optim:Adam       | torch: Adam                                       | adam
torch.optim:AdamW      | torch: Adam with decoupled decay                  | adamw
adam:NAdam             | Adam with Nesterov momentum                       | nadam
adam:RAdam             | rectified Adam                                    | radam radamw/u
adam:Adamax            | Adam by the infinity norm                         | adamax
squares:Adadelta       | rates from windows of past gradients              | adadelta
squares:Adagrad        | rates from the sum of squared gradients           | adagrad/e
squares:RMSprop        | division by the root mean square                  | rmsprop/a
sgd:SGDW               | SGD with decoupled decay | sgdw/n nesterovw/n sgdc/nk csgdw/nc csgdc/nck
adam:AdamWLegacy       | AdamW with update clipping                        | adamwlegacy adamc/k cadamw/c cadamc/ck
adam:NAdamLegacy       | NAdam as it was before it came to torch           | nadamlegacy
adam:NAdamW            | AdamW with Nesterov momentum                      | nadamw nadamc/k cnadamw/c cnadamc/ck
adam:RAdamLegacy       | rectified Adam as it was before it came to torch  | radamlegacy
adamp:AdamP            | Adam without growth of scale-invariant weights    | adamp/sn cadamp/snc
adamp:SGDP             | SGD without growth of scale-invariant weights     | sgdp/n csgdp/nc
adafactor:Adafactor    | Adam with a factored second moment                | adafactor cadafactor/cb
adafactor:AdafactorBigVision | Adafactor, momentum in bf16 | adafactorbv adafactorbvc/k cadafactorbv/c cadafactorbvc/ck
adam:AdaBelief         | Adam by the deviation from the expected gradient  | adabelief/R radabelief/r
layerwise:Lamb         | LAMB: Adam scaled by tensor norms | lamb lambc/t lambw/w lambcw/tw lambcd/wk clamb/c clambw/cw
layerwise:Lars         | LARS: SGD scaled by tensor norms                  | lars larc/t nlars/n nlarc/nt
sgd:Lion               | Lion: sign of the momentum                        | lion lionc/k clion/c clionc/ck
layerwise:NvNovoGrad   | NovoGrad: Adam with one second moment a tensor    | novograd novogradw/w novogradc/wk
squares:RMSpropTF      | RMSprop as in TensorFlow | rmsproptf/a rmsproptfw/aw rmsproptfc/awk crmsproptf/ac
change:Adan            | Adan: momentum of the change of the gradient      | adan/P adanw/p cadan/cP cadanw/cp
adam:Adopt             | ADOPT: Adam that suits any beta2 | adopt adoptw/d adoptc/dk cadopt/c cadoptw/dc cadoptc/dck
adam:LaProp            | LaProp: momentum after the division               | laprop lapropc/k claprop/c
squares:MADGRAD        | MADGRAD: dual averaging with momentum             | madgrad madgradw/w
change:Mars            | MARS: variance-reduced AdamW or Lion              | mars cmars/c
muon:Muon              | Muon: orthogonalized momentum, AdamW for vectors  | muon nmuon/n adamuon/m nadamuon/mn
kron:Kron              | PSGD with Kronecker factors                       | kron kronw/w kronc/wk
hessian:Adahessian     | Adam by the diagonal of the Hessian               | adahessian
hessian:Sophia         | Sophia: clipped steps by the Hessian's diagonal   | sophia
soap:SOAP              | SOAP: Adam in the eigenbasis of Shampoo's factors | soap
prodigy:Prodigy        | Prodigy: Adam that finds its learning rate        | prodigy
schedulefree:AdamWScheduleFree | AdamW that needs no schedule | adamwschedulefree
schedulefree:SGDScheduleFree | SGD that needs no schedule | sgdschedulefree
apex.optimizers:FusedSGD      | NVIDIA apex: FusedSGD        | fusedsgd/n               | momentum
apex.optimizers:FusedAdam     | NVIDIA apex: FusedAdam       | fusedadam/V fusedadamw/v | eps betas
apex.optimizers:FusedLAMB     | NVIDIA apex: FusedLAMB       | fusedlamb                | eps betas
apex.optimizers:FusedNovoGrad | NVIDIA apex: FusedNovoGrad   | fusednovograd/B          | eps betas
bitsandbytes.optim:SGD        | bitsandbytes: SGD            | bnbsgd/n                 | momentum
bitsandbytes.optim:SGD8bit    | bitsandbytes: SGD8bit        | bnbsgd8bit/n             | momentum
bitsandbytes.optim:Adam       | bitsandbytes: Adam           | bnbadam                  | eps betas
bitsandbytes.optim:Adam8bit   | bitsandbytes: Adam8bit       | bnbadam8bit              | eps betas
bitsandbytes.optim:AdamW      | bitsandbytes: AdamW          | bnbadamw                 | eps betas
bitsandbytes.optim:AdamW8bit  | bitsandbytes: AdamW8bit      | bnbadamw8bit             | eps betas
bitsandbytes.optim:Lion       | bitsandbytes: Lion           | bnblion                  | betas
bitsandbytes.optim:Lion8bit   | bitsandbytes: Lion8bit       | bnblion8bit              | betas
bitsandbytes.optim:AdEMAMix   | bitsandbytes: AdEMAMix       | bnbademamix              | eps betas
bitsandbytes.optim:AdEMAMix8bit | bitsandbytes: AdEMAMix8bit   | bnbademamix8bit        | eps betas
"""
LETTERS: dict[str, tuple[str, Any, str]] = {  # option, its value, words for the description
    'c': ('caution', True, 'cautious'),
    'k': ('corrected_weight_decay', True, 'corrected decay'),
    'w': ('decoupled_decay', True, 'decoupled decay'),
    'd': ('decoupled', True, 'decoupled decay'),
    'u': ('decoupled_weight_decay', True, 'decoupled decay'),
    'p': ('no_prox', True, 'decoupled decay'),
    'P': ('no_prox', False, ''),
    'n': ('nesterov', True, 'Nesterov momentum'),
    'N': ('nesterov', False, ''),
    't': ('trust_clip', True, 'clipped trust ratio'),
    'r': ('rectify', True, 'rectified'),
    'R': ('rectify', False, ''),
    'm': ('algo', 'adamuon', 'with a second moment'),
    'a': ('alpha', 0.9, ''),
    'e': ('eps', 1e-8, ''),
    's': ('wd_ratio', 0.01, ''),
    'b': ('betas', (0.9, 0.999), ''),
    'B': ('betas', (0.95, 0.98), ''),
    'v': ('adam_w_mode', True, 'decoupled decay'),
    'V': ('adam_w_mode', False, ''),
}


def read(rows: str) -> dict[str, Entry]:
    """The rows by name."""
    table = {}
    for row in rows.strip().splitlines():
        target, text, names, *takes = (part.strip() for part in row.split('|'))
        for name, _, letters in (each.partition('/') for each in names.split()):
            options = [LETTERS[letter] for letter in letters]
            told = ', '.join([text, *(words for _, _, words in options if words)])
            table[name] = Entry(target, told, {key: value for key, value, _ in options}, tuple(' '.join(takes).split()))
    return table


TABLE = read(ROWS)
EXTERNAL = {name for name, entry in TABLE.items() if entry.takes}  # of packages that users install themselves
