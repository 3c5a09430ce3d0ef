"""Time of one optimizer step, and bytes of state a parameter, by name: `python -m benchmarks.optim`.

On the tensors of `vit_tiny_patch16_224` (CPU) or `efficientnet_b0` (`--device cuda`). With `--peer PYTHON` (or
PEER_PYTHON set), the interpreter of an environment that holds timm, both libraries step in turns, each in a process of
its own. Times are lower quartiles of the rounds, which other work on the machine touches least. `--processes N` makes
our optimizers ahead of all measurements in N processes at once: it is the compiler that takes the time.

Seven are also held against torch's fused AdamW, which steps in turn with them, by the memory traffic of their formulas:
AdamW reads parameter, gradient and two states and writes all but the gradient, 28 bytes a parameter in float32. What a
formula reads or writes a second time, because a norm has to be known first, counts as traffic again (`TRAFFIC`).
"""

import argparse
import os
import statistics

from benchmarks.side import Side, interpreters

# a line in: `new NAME` makes an optimizer and warms it up, and the answer is its bytes of state a parameter (of our
# classes too where torch holds fewer tensors), or `none`; `step NAME` answers with seconds, `end NAME` drops it
WORKER = """
import importlib, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
library, device, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
models = importlib.import_module(library)
optim = importlib.import_module(library + '.optim')
create = getattr(optim, 'create_optimizer_v2', None) or optim.create_optimizer
torch.manual_seed(0)
model = models.create_model('efficientnet_b0' if device == 'cuda' else 'vit_tiny_patch16_224').to(device)
params = list(model.parameters())
weights = [p.detach().clone() for p in params]
gradients = [0.01 * torch.randn(p.shape, device=device) for p in params]

def wait():
    if device == 'cuda':
        torch.cuda.synchronize()

def bytes_of(tensors):
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors if torch.is_tensor(t)}.values())

def step(name):
    for p, g in zip(params, gradients):
        p.grad = None if name == 'adahessian' else g
    if name == 'adahessian':
        sum((p ** 3).sum() for p in params).backward(create_graph=True)
    wait()
    time.sleep(0.005)  # threads of the side that was last spin for a while, on the cores that are wanted here
    start = time.perf_counter()
    optimizers[name].step()
    wait()
    return time.perf_counter() - start

optimizers = {}
for line in sys.stdin:
    verb, _, name = line.strip().partition(' ')
    if verb == 'step':
        print(step(name), flush=True)
    elif verb == 'end':
        print(optimizers.pop(name, None) is not None, flush=True)
    else:
        with torch.no_grad():
            torch._foreach_copy_(params, weights)
        try:
            if name == 'torch fused adamw':
                optimizers[name] = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.05, fused=True)
            else:
                optimizers[name] = create(model, opt=name, lr=1e-4, weight_decay=0.05)
            for _ in range(4):
                step(name)
            held = [t for state in optimizers[name].state.values() for t in state.values()]
            print(bytes_of(held) / sum(p.numel() for p in params), flush=True)
        except Exception as error:
            print('none', type(error).__name__, str(error)[:150].replace(chr(10), ' '), flush=True)
"""
FUSED, FUSED_BYTES = 'torch fused adamw', 28
# bytes a parameter: parameter and gradient read, parameter written, each state read and written; then what is again
TRAFFIC = {
    'cadamw': 28 + 12,  # the mask's mean: the step is written, and read with the parameter
    'lion': 20,
    'lamb': 28 + 4 + 12,  # the global norm of the gradient; the norm of the step
    'novograd': 20 + 4,  # the norm of the gradient
    'adafactor': 12 + 8,  # row and column means, then the norm of the step, from the gradient
    'adabelief': 28,
    'rmsproptf': 28,
}


def measure(
    sides: dict[str, Side], name: str, rounds: int, made: dict[str, str]
) -> tuple[dict[str, str], dict[str, list[float]]]:
    """State a parameter and the seconds of each round, by side; a side that lacks the name is left out.

    `made` is the state on sides that have the optimizer already.
    """
    names = {side: FUSED if side == 'fused' else name for side in sides}
    states = {side: made.get(side) or sides[side].ask(f'new {names[side]}') for side in sides}
    have = [side for side in sides if not states[side].startswith('none')]
    seconds: dict[str, list[float]] = {side: [] for side in have}
    for i in range(rounds):
        for side in have if i % 2 else reversed(have):
            seconds[side].append(float(sides[side].ask(f'step {names[side]}')))
    for side in sides:
        sides[side].ask(f'end {names[side]}')
    return states, seconds


def quiet(seconds: list[float]) -> float:
    """Lower quartile, in milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=4)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--names', nargs='*', help='those, instead of all that need no other package')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--processes', type=int, default=0, help='that make ours ahead; 0: one after the other')
    args = parser.parse_args()
    from foveal.optim import list_optimizers

    names = args.names or list_optimizers(exclude_filters=['fused*', 'bnb*'])
    pythons = interpreters(args.peer)
    arguments = args.device, str(args.threads)
    others = {side: Side(python, WORKER, side, *arguments) for side, python in pythons.items() if side != 'foveal'}
    others['fused'] = Side(pythons['foveal'], WORKER, 'foveal', *arguments)
    ours = [Side(pythons['foveal'], WORKER, 'foveal', *arguments) for _ in range(max(args.processes, 1))]
    side_of = {name: ours[i % len(ours)] for i, name in enumerate(names)}
    if args.processes:
        for name in names:
            side_of[name].tell(f'new {name}')
    made = {name: side_of[name].hear() for name in names} if args.processes else {}
    ratios, more = {}, []
    print(f'{"":20}{"ms":>8}{"timm ms":>9}{"faster":>8}{"state B":>10}{"timm B":>8}   to fused adamw, by traffic')
    for name in names:
        sides = {'foveal': side_of[name]} | {s: others[s] for s in others if s != 'fused' or name in TRAFFIC}
        states, seconds = measure(sides, name, args.rounds, {'foveal': made[name]} if made else {})
        if 'foveal' not in seconds:
            print(f'{name:20} {states["foveal"]}', flush=True)
            continue
        times = {side: quiet(values) for side, values in seconds.items()}
        row = f'{name:20}{times["foveal"]:8.2f}'
        if 'timm' in times:
            ratios[name] = times['timm'] / times['foveal']
            row += f'{times["timm"]:9.2f}{ratios[name]:8.2f}{float(states["foveal"]):10.2f}{float(states["timm"]):8.2f}'
            if float(states['foveal']) > float(states['timm']) + 0.01:
                more.append(name)
        if name in TRAFFIC:
            cost = times['foveal'] / times['fused'] * FUSED_BYTES / TRAFFIC[name]
            row += f'{cost:10.2f} ({TRAFFIC[name]} B; AdamW {times["fused"]:.2f} ms)'
        print(row, flush=True)
    if ratios:
        values = sorted(ratios.values())
        print(f'{len(values)} names: geometric mean {statistics.geometric_mean(values):.2f}, ', end='')
        slower = ', '.join(name for name, ratio in ratios.items() if ratio < 1)
        print(f'median {statistics.median(values):.2f}; slower than timm: {slower or "none"}')
        print(f'more state than timm: {", ".join(more) or "none"}')
    for side in (*ours, *others.values()):
        side.close()


if __name__ == '__main__':
    main()
