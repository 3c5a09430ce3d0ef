"""What is done to whole batches: random erasing, mixup and cutmix, and the numbers they draw."""

import math

import numpy as np
import pytest
import torch

from foveal.data import Mixup, RandomErasing, soft_targets
from foveal.data.philox import philox, seeds_of, uniform, words
from tests.reference import rows

REFERENCE = dict(rows('augment'))


def close(got: float, expected: float, spread: float, draws: int, other: int) -> bool:
    """Whether two measured means are within five standard errors of each other."""
    return abs(got - expected) <= 5 * spread * math.sqrt(1 / draws + 1 / other)


@pytest.mark.parametrize(
    ('counter', 'key', 'expected'),
    [
        ([0] * 4, (0, 0), '6627e8d5 e169c58d bc57ac4c 9b00dbd8'),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), '408f276d 41c83b0e a20bc7c6 6d5451fd'),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            'd16cfe09 94fdcceb 5001e420 24126ea1',
        ),
    ],
)
def test_philox_gives_its_authors_answers(counter: list[int], key: tuple[int, int], expected: str) -> None:
    """The known answers that Random123 publishes for philox4x32-10."""
    numbers = philox([np.array([word], np.uint64) for word in counter], key)
    assert ' '.join(f'{int(number[0]):08x}' for number in numbers) == expected


def addresses(count: int, epoch: int = 0) -> torch.Tensor:
    """Samples 0 to count of an epoch."""
    return torch.stack([torch.full((count,), epoch), torch.arange(count), torch.zeros(count, dtype=torch.int64)], 1)


def test_numbers_of_addresses_are_spread_as_they_should_be() -> None:
    numbers = uniform(words(addresses(50_000).numpy(), np.zeros(50_000), 7))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, 100, (0, 1))
    # chi-square with 99 degrees of freedom; five standard deviations
    assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 5 * math.sqrt(2 * 99)


def test_noise_of_neighbours_has_nothing_in_common() -> None:
    seeds = seeds_of(words(addresses(20_000).numpy(), np.ones(20_000), 7))
    assert len(set(seeds)) == 20_000
    generator = torch.Generator()
    gauss = torch.stack([torch.randn(4, generator=generator.manual_seed(seed)) for seed in seeds])
    assert abs(gauss.mean()) < 5 / math.sqrt(80_000)
    assert abs(gauss.var() - 1) < 5 * math.sqrt(2 / 80_000)
    assert np.abs(np.corrcoef(gauss.T.numpy())[np.triu_indices(4, 1)]).max() < 5 / math.sqrt(20_000)
    assert abs((gauss[1:, 0] * gauss[:-1, 0]).mean()) < 5 / math.sqrt(20_000)


def test_what_is_erased_depends_on_the_address_alone() -> None:
    where = torch.cat([addresses(12), addresses(12, epoch=1)])
    for mode in ('const', 'rand', 'pixel'):
        erasing = RandomErasing(0.7, mode=mode, max_count=3)
        images = torch.rand(24, 3, 40, 32, generator=torch.Generator().manual_seed(0))
        whole = erasing(images.clone(), where, seed=5)
        assert not torch.equal(whole, images)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
        for part in order.split(7):  # other batches, as on other ranks
            assert torch.equal(erasing(images[part].clone(), where[part].numpy(), seed=5), whole[part])
        assert not torch.equal(erasing(images.clone(), where, seed=6), whole)
    boxes = [RandomErasing(1.0).boxes(addresses(1, epoch), (64, 64), 0)[0][2:] for epoch in range(5)]
    assert len(set(boxes)) == 5


@pytest.mark.parametrize('case', range(len(REFERENCE['erasing'])))
def test_erased_areas_are_spread_as_the_peers(case: int) -> None:
    """Share of images, mean and range of the area, and where it lies, as measured on timm 1.0.31."""
    options, expected = REFERENCE['erasing'][case]
    count, (height, width) = 10_000, expected['size']
    erased = torch.zeros(count, height, width)
    for box in RandomErasing(**options).boxes(addresses(count), (height, width), 3):
        erased[box.sample, box.top : box.top + box.height, box.left : box.left + box.width] = 1
    area = erased.mean((1, 2))
    area = area[area > 0]
    share = expected['share']
    assert close(len(area) / count, share, math.sqrt(share * (1 - share)), count, expected['images'])
    assert close(area.mean().item(), expected['area_mean'], expected['area_std'], len(area), expected['images'])
    assert area.std().item() == pytest.approx(expected['area_std'], rel=0.05)
    assert area.min().item() >= 0.9 * expected['area_min']
    assert area.max().item() <= 1.05 * expected['area_max']
    profile = erased.mean((0, 2))[::8].numpy()
    np.testing.assert_allclose(profile, expected['rows'], atol=0.02)


def test_boxes_are_filled_as_the_mode_says() -> None:
    where, size = addresses(200), (40, 48)
    boxes = RandomErasing(1.0).boxes(where, size, 0)
    assert len(boxes) == 200
    filled = {mode: [] for mode in ('const', 'rand', 'pixel')}
    for mode, parts in filled.items():
        images = RandomErasing(1.0, mode=mode)(torch.full((200, 3, *size), 9.0), where, 0)
        for box in boxes:
            part = images[box.sample, :, box.top : box.top + box.height, box.left : box.left + box.width]
            parts.append(part.clone())
            part.fill_(9)
        assert (images == 9).all()  # nothing but the boxes was touched
    assert not torch.cat([part.flatten() for part in filled['const']]).any()
    for part in filled['rand']:
        assert (part == part[:, :1, :1]).all()
    colours = torch.stack([part[:, 0, 0] for part in filled['rand']])
    noise = torch.cat([part.flatten() for part in filled['pixel']])
    for values in (colours, noise):
        assert abs(values.mean()) < 5 / math.sqrt(values.numel())
        assert abs(values.var() - 1) < 5 * math.sqrt(2 / values.numel())


def test_boxes_of_one_image_have_noise_of_their_own() -> None:
    erasing = RandomErasing(1.0, mode='pixel', min_count=3)
    boxes = erasing.boxes(addresses(1), (16, 16), 0)
    noise = [erasing.noise(box._replace(height=8, width=8), 3, torch.device('cpu')) for box in boxes]
    assert len(noise) == 3
    assert np.abs(np.corrcoef([part.flatten().numpy() for part in noise])[np.triu_indices(3, 1)]).max() < 0.3


def test_the_clean_split_stays_clean() -> None:
    images = torch.ones(30, 1, 32, 32)
    RandomErasing(1.0, num_splits=3)(images, addresses(30))
    erased = (images == 0).flatten(1).any(1)
    assert not erased[:10].any()
    assert erased[10:].all()


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'mode': 'noise'}, "re_mode must be one of const, rand, pixel, got 'noise'"),
        ({'probability': 2}, 're_prob is a probability'),
        ({'min_area': 0.5}, 'min_area <= max_area'),
        ({'min_aspect': 0}, 'min_aspect'),
        ({'min_aspect': 2, 'max_aspect': 1}, 'min_aspect <= max_aspect'),
        ({'min_count': 3, 'max_count': 2}, 'min_count <= max_count'),
    ],
)
def test_erasing_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RandomErasing(**options)


def test_targets_are_smoothed_by_their_formulas() -> None:
    targets = torch.tensor([0, 2])
    soft = soft_targets(targets, 4, 0.2)
    assert torch.allclose(soft, torch.tensor([[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]]))
    assert torch.equal(soft_targets(torch.eye(4)[targets], 4, 0.2), soft)
    logits = torch.randn(2, 4)
    loss = torch.nn.functional.cross_entropy
    assert torch.allclose(loss(logits, soft), loss(logits, targets, label_smoothing=0.2))
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    expected = torch.tensor([[0.9, 0.1, 0.9, 0.1], [0.1, 0.1, 0.1, 0.1]])
    assert torch.allclose(soft_targets(labels, 4, 0.2, multi_label=True), expected)
    with pytest.raises(ValueError, match='targets have 4 columns, num_classes is 5'):
        soft_targets(labels, 5)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem', 'half'])
@pytest.mark.parametrize('count', [1, 6, 7])
def test_targets_of_a_mixed_batch_are_the_shares_of_its_pixels(mode: str, count: int) -> None:
    """Image i is all i, so what became of it can be read off its pixels."""
    images = torch.arange(count).double().view(-1, 1, 1, 1).expand(-1, 2, 24, 20)
    rng = np.random.default_rng(0)
    for options in ({}, {'cutmix_alpha': 1.0}, {'mixup_alpha': 0.0, 'cutmix_minmax': (0.3, 0.8)}, {'prob': 0.5}):
        mix = Mixup(mode=mode, label_smoothing=0.0, num_classes=count, **options)
        for _ in range(20):
            mixed, targets = mix(images, torch.arange(count), rng)
            rows = -(-count // 2) if mode == 'half' else count
            assert mixed.shape == (rows, 2, 24, 20)
            assert targets.shape == (rows, count)
            assert targets.dtype == torch.float32
            np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
            for i in range(rows):
                partner = count - 1 - i
                share = targets[i, i].item()
                if i == partner:
                    assert share == pytest.approx(1)
                    assert (mixed[i] == i).all()
                    continue
                values = mixed[i].unique()
                if len(values) == 1:
                    assert values.item() == pytest.approx(share * i + (1 - share) * partner, abs=1e-5)
                else:
                    assert set(values.tolist()) == {float(i), float(partner)}
                    assert (mixed[i] == i).double().mean().item() == pytest.approx(share, abs=1e-6)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(count).double())  # the batch itself is left alone


def test_a_box_without_correction_keeps_the_share_that_was_drawn() -> None:
    images, classes = torch.arange(2.0).view(-1, 1, 1, 1).expand(-1, 1, 16, 16), torch.arange(2)
    cut = {'mixup_alpha': 0.0, 'cutmix_alpha': 1.0, 'label_smoothing': 0.0, 'num_classes': 2}
    differ = 0
    for seed in range(50):
        drawn, corrected = (
            Mixup(correct_lam=correct, **cut)(images, classes, np.random.default_rng(seed)) for correct in (False, True)
        )
        assert torch.equal(drawn[0], corrected[0])
        # the box is cut off at the edge, so it is never larger than what was drawn
        assert corrected[1][0, 0] >= drawn[1][0, 0] - 1e-6
        differ += bool(corrected[1][0, 0] > drawn[1][0, 0] + 0.01)
    assert differ > 25


def test_a_box_is_centred_where_it_was_drawn_and_cut_at_the_edge() -> None:
    """Its sides are half the image's, and its centre is any pixel: the extremes, as measured on timm 1.0.31."""
    edges = Mixup(0.0, 1.0).box(np.full(4000, 0.75), (32, 40), np.random.default_rng(0))
    top, bottom, left, right = edges
    assert (top.max(), bottom.min(), left.max(), right.min()) == (23, 8, 29, 10)
    assert ((bottom - top).max(), (right - left).max()) == (16, 20)


def test_labels_of_both_images_remain_after_mixing() -> None:
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    images = torch.rand(2, 3, 8, 8)
    mix = Mixup(label_smoothing=0.1, num_classes=4, multi_label=True)
    _, targets = mix(images, labels, np.random.default_rng(2))
    share = (targets[0, 0].item() - 0.05) / 0.9
    expected = torch.tensor([[share, 1 - share, share, 0], [1 - share, share, 1 - share, 0]]) * 0.9 + 0.05
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_a_batch_is_mixed_by_its_generator_alone() -> None:
    images, classes = torch.rand(8, 3, 16, 16), torch.arange(8)
    mix = Mixup(0.8, 1.0, mode='elem', num_classes=8)
    first, again, other = (mix(images, classes, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize('case', range(len(REFERENCE['mixing'])))
def test_shares_are_drawn_as_the_peers(case: int) -> None:
    """Mean and spread of the shares, and how often there is mixup, cutmix or neither, as measured on timm 1.0.31."""
    options, expected = REFERENCE['mixing'][case]
    mix, rng = Mixup(**options), np.random.default_rng(case)
    draws = {'batch': 1, 'pair': 4, 'elem': 8}[options['mode']]
    mixtures = [mix.draw(draws, (32, 40), rng) for _ in range(4000 // draws)]
    share = np.concatenate([mixture.share for mixture in mixtures])
    is_cut = np.concatenate([mixture.is_cut for mixture in mixtures])
    assert close(share.mean(), expected['share_mean'], expected['share_std'], len(share), expected['draws'])
    assert share.std() == pytest.approx(expected['share_std'], rel=0.1)
    for kind, which in (('none', share == 1), ('cutmix', is_cut & (share < 1)), ('mixup', ~is_cut & (share < 1))):
        frequency = expected['kinds'].get(kind, 0) / expected['draws']
        spread = max(math.sqrt(frequency * (1 - frequency)), 0.02)
        assert close(which.mean(), frequency, spread, len(share), expected['draws']), kind


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'mode': 'row'}, "mixup_mode must be one of batch, pair, elem, half, got 'row'"),
        ({'mixup_alpha': -1}, 'mixup and cutmix must be at least 0'),
        ({'mixup_alpha': 0}, 'one of mixup, cutmix and cutmix_minmax is needed'),
        ({'cutmix_minmax': (0.5, 0.2)}, 'cutmix_minmax must be'),
        ({'prob': 1.5}, 'mixup_prob is a probability'),
        ({'switch_prob': -0.1}, 'mixup_switch_prob is a probability'),
    ],
)
def test_mixing_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mixup(**options)
