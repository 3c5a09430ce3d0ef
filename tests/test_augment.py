"""Policies, crops and whole pipelines."""

import json
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data import Augment, create_transform
from foveal.data.auto_augment import TRIVIAL_WIDE, AugMix, AutoAugment, RandAugment, create_policy
from foveal.data.color import ColorJitter, RandomBlur, RandomGray
from foveal.data.crop import KeepRatioCrop, random_crop_or_pad
from foveal.data.images import Picture
from foveal.data.ops import OPERATIONS, Operation, Settings
from foveal.data.policies import AUGMIX
from tests.photos import photo
from tests.reference import rows

REFERENCE = dict(rows('augment'))
POLICIES = ('v0', 'v0r', 'original', 'originalr', '3a', 'rand-m9-mstd0.5-inc1', 'augmix-m5', 'ta_wide', 'trivial')


def within(counts: Counter[Any], expected: dict[Any, int], draws: int, other: int) -> bool:
    """Whether two sets of counts could be of one distribution: each within five standard errors."""
    for key in {*counts, *expected}:
        a, b = counts.get(key, 0) / draws, expected.get(key, 0) / other
        pooled = (counts.get(key, 0) + expected.get(key, 0)) / (draws + other)
        if abs(a - b) > 5 * math.sqrt(pooled * max(1 - pooled, 0.05) * (1 / draws + 1 / other)):
            return False
    return True


def test_policy_tables_are_the_published_ones() -> None:
    """As read off the peer, timm 1.0.31."""
    for name, expected in REFERENCE['policies'].items():
        policy = create_policy(name)
        assert isinstance(policy, AutoAugment)
        got = [[[step.name, step.probability, step.level.mean] for step in pair] for pair in policy.sub_policies]
        assert got == expected


@pytest.mark.parametrize('text', REFERENCE['parsed'])
def test_policy_strings_mean_what_they_do_in_the_peer(text: str) -> None:
    expected, policy = REFERENCE['parsed'][text], create_policy(text)
    pairs = policy.sub_policies if isinstance(policy, AutoAugment) else [policy.steps]
    steps = [step for pair in pairs for step in pair]
    assert [step.name for step in steps] == expected['ops']
    mean, std, most = steps[0].level
    assert (steps[0].probability, mean, most) == (expected['prob'], expected['m'], expected['mmax'])
    assert (None if std == float('inf') else std) == expected['mstd']
    if isinstance(policy, RandAugment):
        assert policy.count == expected['n']
        if expected['weights'] is None:
            assert policy.weights is None
        else:
            shares = np.array(policy.weights) / sum(policy.weights)
            np.testing.assert_allclose(shares, expected['weights'], atol=1e-6)
    if isinstance(policy, AugMix):
        assert (policy.width, policy.depth, policy.alpha) == (expected['width'], expected['depth'], expected['alpha'])


def test_augmix_has_no_operation_that_its_robustness_test_has() -> None:
    """Table of the paper's section 3: the test set's corruptions are left out."""
    assert not {'Invert', 'SolarizeAdd', 'GaussianBlur', 'Brightness'} & set(AUGMIX)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('ran-m9', "policy 'ran' of 'ran-m9' is none of v0, .*; did you mean 'rand'"),
        ('RAND-m9', "policy 'RAND' of 'RAND-m9' is none of v0, v0r"),
        ('rand-m9-x3', "rand has no key 'x3'.*it takes m, n, p, mmax, inc, t, mstd"),
        ('rand-w3', "rand has no key 'w3'"),
        ('v0-m3', "v0 has no key 'm3'"),
        ('ta_wide-m3', "ta_wide has no key 'm3'.*it takes none"),
        ('rand-mfoo', "m of 'rand-mfoo' must be a number from 0, got 'foo'"),
        ('rand-n2.5', "n of 'rand-n2.5' must be a whole number from 0, got '2.5'"),
        ('rand-p1.5', 'must be a number from 0 to 1'),
        ('rand-inc2', 'must be 0 or 1'),
        ('rand-tfoo', 'must be weights, 3a or 3aw'),
        ('rand-n20-tweights', 'n of .* is at most 15'),
        ('augmix-d0', 'must be a whole number from 1, or -1'),
        ('augmix-a0', 'a of .* must be a number from 1e-06'),
        ('', "policy '' of '' is none of"),
    ],
)
def test_policy_strings_that_mean_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create_policy(text)


def test_policy_strings_may_say_what_the_peer_does_not_read() -> None:
    assert create_policy('augmix-d-1').depth == -1
    assert create_policy('rand-p.7').steps[0].probability == 0.7
    assert create_policy('rand-m9.5').steps[0].level.mean == 9.5


@pytest.mark.parametrize('text', REFERENCE['drawn'])
def test_operations_are_drawn_as_the_peer_draws_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often each operation is used, how many an image has, and their levels, as measured on timm 1.0.31."""
    expected, policy, rng = REFERENCE['drawn'][text], create_policy(text), np.random.default_rng(0)
    uses: list[str] = []
    levels: list[float] = []

    def spied(name: str) -> Operation:
        def argument(level: float, *_: Any) -> float:
            levels.append(level)
            return level

        def apply(image: np.ndarray, *_: Any) -> np.ndarray:
            uses.append(name)
            return image

        return OPERATIONS[name]._replace(apply=apply, argument=argument if OPERATIONS[name].argument else None)

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, spied(name))
    image, images, per_image = np.zeros((2, 2, 3), np.uint8), 5000, Counter()
    for _ in range(images):
        before = len(uses)
        policy(image, rng)
        per_image[len(uses) - before] += 1
    assert within(per_image, dict(expected['per_image']), images, expected['images'])
    assert within(Counter(uses), expected['uses'], len(uses), sum(expected['uses'].values()))
    spread = max(expected['level_std'], 1e-9)
    assert abs(np.mean(levels) - expected['level_mean']) <= 5 * spread * math.sqrt(2 / len(levels)) + 1e-9
    assert np.std(levels) == pytest.approx(expected['level_std'], rel=0.06, abs=1e-9)
    assert min(levels) >= 0
    assert max(levels) <= expected['level_max'] + 0.7 * expected['level_std'] + 1e-9


def test_a_mixture_of_unchanged_chains_is_the_image() -> None:
    pixels = photo('small')
    policy = create_policy('augmix-m0-mstd0')
    unchanged = ('ColorIncreasing', 'BrightnessIncreasing', 'SharpnessIncreasing', 'Rotate')  # at level 0
    policy = AugMix(tuple(step for step in policy.steps if step.name in unchanged), Settings())
    for seed in range(10):
        np.testing.assert_array_equal(policy(pixels, np.random.default_rng(seed)), pixels)


def test_a_mixture_lies_between_the_image_and_its_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one chain that is all black, the mixture is the image times a share from a flat Beta distribution."""
    black = Operation(lambda image: np.zeros_like(image))
    for name in AUGMIX:
        monkeypatch.setitem(OPERATIONS, name, black)
    policy, pixels, shares = create_policy('augmix'), np.full((1, 1, 3), 255, np.uint8), []
    for seed in range(2000):
        shares.append(policy(pixels, np.random.default_rng(seed))[0, 0, 0] / 255)
    # uniform: mean 1/2, deviation 1/sqrt(12)
    assert abs(np.mean(shares) - 0.5) < 5 / math.sqrt(12 * 2000)
    assert np.std(shares) == pytest.approx(1 / math.sqrt(12), rel=0.05)


# the wide space of arXiv:2103.10158, appendix: argument at the weakest and the strongest, and whether the sign is drawn
WIDE = {
    'identity': None, 'auto contrast': None, 'equalize': None, 'rotate': (0, 135, True), 'posterize': (8, 2, False),
    'solarize': (255, 0, False), 'color': (0, 0.99, True), 'contrast': (0, 0.99, True), 'brightness': (0, 0.99, True),
    'sharpness': (0, 0.99, True), 'shear x': (0, 0.99, True), 'shear y': (0, 0.99, True),
    'translate x': (0, 32, True), 'translate y': (0, 32, True),
}  # fmt: skip


def test_trivial_augment_uses_the_ranges_of_its_paper() -> None:
    """Bits and levels are whole, so they may be half of one away from the line between the ends."""
    for (name, expected), operation in zip(WIDE.items(), TRIVIAL_WIDE, strict=True):
        if expected is None:
            assert operation.argument is None
            continue
        weakest, strongest, signed = expected
        assert operation.signed == signed
        whole = name in ('posterize', 'solarize')
        middle = 1 if name in ('color', 'contrast', 'brightness', 'sharpness') else 0
        for k in range(31):
            got = operation.argument(k / 3, 1, Settings()) - middle
            assert got == pytest.approx(weakest + (strongest - weakest) * k / 30, abs=0.5 if whole else 1e-9), (name, k)
            assert not whole or got == int(got)


@pytest.mark.parametrize('policy', POLICIES)
def test_a_policy_changes_images_and_depends_on_the_generator_alone(policy: str) -> None:
    pixels = photo('small')
    for image in (pixels, pixels[:, :, :1].copy()):
        before = image.copy()
        results = []
        for seed in range(12):
            first, again = (create_policy(policy)(image, np.random.default_rng(seed)) for _ in range(2))
            np.testing.assert_array_equal(first, again)
            assert first.shape == image.shape
            assert first.dtype == np.uint8
            results.append(first.tobytes())
        np.testing.assert_array_equal(image, before)
        assert len(set(results)) > 3


NAMES = {
    'RandomResizedCrop': 'RandomResizedCropAndInterpolation',
    'RandomGray': 'RandomGrayscale',
    'RandomBlur': 'RandomApply GaussianBlur',
    'AugMix': 'AugMixAugment',
}


@pytest.mark.parametrize('options', REFERENCE['stages'])
def test_stages_are_those_of_the_peer_in_its_order(options: str) -> None:
    asked = json.loads(options)
    asked = {key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()}
    pipeline = create_transform(is_training=True, use_prefetcher=True, **asked)
    got = []
    for stage in (pipeline.crop, *pipeline.flips, *pipeline.changes):
        name = NAMES.get(type(stage).__name__, type(stage).__name__)
        if isinstance(stage, KeepRatioCrop):
            got += ['ResizeKeepRatio', 'RandomCropOrPad' if stage.is_random else 'CenterCropOrPad']
        elif name == 'RandomFlip':
            got.append({1: 'RandomHorizontalFlip', 0: 'RandomVerticalFlip'}[stage.axis])
        elif isinstance(stage, ColorJitter):
            got.append('RandomApply ColorJitter' if 'color_jitter_prob' in asked else 'ColorJitter')
        else:
            got.append(name)
    assert [*got, 'MaybePILToTensor'] == REFERENCE['stages'][options]


def test_options_have_the_peers_defaults() -> None:
    """Where ours has the option at all; the prefetching loader and crop_pct decide where they are used."""
    augment = {name: field.default for name, field in Augment.__dataclass_fields__.items()}
    for name, expected in REFERENCE['defaults']['create_transform'].items():
        if name in augment:
            assert augment[name] == expected, name


def test_eval_crops_equal_the_peers() -> None:
    """On photographs, every 21st row and 23rd column, as timm 1.0.31 gave them.

    Exact where Pillow resizes. torch's bilinear and bicubic differ by one level in 1% of the values, as
    `test_resizing_equals_pillows` says; of these pixels none by more.
    """
    counts = Counter()
    for (size, crop_pct, mode, interpolation, border), name, expected in REFERENCE['evaluation']:
        transform = create_transform(
            size,
            crop_pct=crop_pct,
            crop_mode=mode,
            interpolation=interpolation,
            crop_border_pixels=border,
            normalize=False,
        )
        got = transform(Image.fromarray(photo(name))).numpy()
        assert got.shape == tuple(size)
        difference = np.abs(got[:, 3::21, 5::23].astype(int) - expected)
        assert difference.max() <= (1 if interpolation in ('bilinear', 'bicubic') else 0)
        counts.update(difference.ravel().tolist())
    assert counts[1] < 0.02 * counts.total()


def test_every_kind_of_image_gives_the_same_input() -> None:
    pixels = photo('chelsea')
    for options in ({}, {'is_training': True, 'auto_augment': 'rand-m9'}):
        transform = create_transform(96, **options)
        kinds = (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1), Picture(pixels))
        first, *others = (transform(kind, np.random.default_rng(5)) for kind in kinds)
        assert first.shape == (3, 96, 96)
        assert all(torch.equal(first, other) for other in others)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(pixels, np.random.default_rng(5)), first)
        assert transform(pixels).shape == (3, 96, 96)


def test_keep_ratio_crops_are_drawn_as_the_peers() -> None:
    """Sizes before the crop: mean, spread and range, and the share that is not changed, as measured on timm 1.0.31."""
    expected, sizes = REFERENCE['keep_ratio'], []

    class Canvas:
        height, width = expected['input']

        def pixels(self, window: Any, least: tuple[int, int]) -> np.ndarray:
            sizes.append(least)
            return np.zeros((*least, 3), np.uint8)

    crop, rng = KeepRatioCrop(tuple(expected['size'])), np.random.default_rng(0)
    for _ in range(4000):
        assert crop(Canvas(), rng).shape == (*expected['size'], 3)
    drawn = np.array(sizes, float)
    error = 5 * np.array(expected['std']) * math.sqrt(1 / 4000 + 1 / 8000)
    assert (np.abs(drawn.mean(0) - expected['mean']) < error).all()
    np.testing.assert_allclose(drawn.std(0), expected['std'], rtol=0.05)
    np.testing.assert_allclose(drawn.min(0), expected['min'], atol=2)
    np.testing.assert_allclose(drawn.max(0), expected['max'], atol=2)
    assert abs((drawn == (160, 213)).all(1).mean() - expected['plain']) < 0.05


def test_a_random_crop_lies_anywhere_and_a_smaller_image_anywhere_in_it() -> None:
    marked = np.arange(20 * 30).reshape(20, 30, 1)
    rng, crops = np.random.default_rng(0), Counter()
    for _ in range(2000):
        window = random_crop_or_pad(marked, (16, 28), rng)
        top, left = divmod(int(window[0, 0, 0]), 30)
        np.testing.assert_array_equal(window, marked[top : top + 16, left : left + 28])
        crops[top, left] += 1
    assert set(crops) == {(top, left) for top in range(5) for left in range(3)}
    assert all(abs(count - 2000 / 15) < 60 for count in crops.values())
    places = {int(np.argmax(random_crop_or_pad(marked[:4, :4] + 1, (7, 4), rng)[:, 0, 0] > 0)) for _ in range(100)}
    assert places == {0, 1, 2, 3}


def test_what_jitter_does_is_within_its_strengths() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    values = [ColorJitter((0.4, 0, 0, 0))(grey, rng)[0, 0, 0] for _ in range(500)]
    assert min(values) in range(60, 63)
    assert max(values) in range(138, 141)
    # mean and deviation of a uniform distribution, to five standard errors
    assert abs(np.mean(values) - 100) < 5 * 80 / math.sqrt(12 * 500)
    untouched = sum(ColorJitter((0.4, 0, 0, 0), 0.3)(grey, rng) is grey for _ in range(1000))
    assert abs(untouched - 700) < 5 * math.sqrt(1000 * 0.21)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    hues = [ColorJitter((0, 0, 0, 0.1))(red, rng)[0, 0] for _ in range(200)]
    # a tenth of the circle from red is 36 degrees: no further than 0.6 of the way to yellow or magenta
    assert all(pixel[0] == 255 and max(pixel[1:]) <= 0.62 * 255 for pixel in hues)
    assert any(pixel[1] > 100 for pixel in hues)
    assert any(pixel[2] > 100 for pixel in hues)


def test_grey_and_blur_come_up_with_their_probability() -> None:
    pixels, rng = photo('small'), np.random.default_rng(0)
    results = [RandomGray(0.2)(pixels, rng) for _ in range(400)]
    changed = [result for result in results if result is not pixels]
    assert abs(len(changed) - 80) < 5 * 8
    luma = np.asarray(Image.fromarray(pixels).convert('L')).astype(int)
    assert np.abs(changed[0].astype(int) - luma[..., None]).max() <= 1
    blurred = [RandomBlur(0.5)(pixels, rng) is not pixels for _ in range(400)]
    assert abs(sum(blurred) - 200) < 5 * 10


def test_separate_stages_are_the_pipeline_taken_apart() -> None:
    pixels, options = photo('coffee'), {'auto_augment': 'augmix-m5', 'normalize': False}
    whole = create_transform(64, is_training=True, **options)
    base, augment, final = create_transform(64, is_training=True, separate=True, **options)
    rng = np.random.default_rng(1)
    parts = final(augment(base(pixels, rng), rng), rng)
    assert torch.equal(parts, whole(pixels, np.random.default_rng(1)))
    with pytest.raises(ValueError, match='separate needs is_training=True'):
        create_transform(64, separate=True)


def test_erasing_without_a_loader_follows_the_generator() -> None:
    transform = create_transform(64, is_training=True, re_prob=1.0, re_mode='pixel', re_count=2)
    plain = create_transform(64, is_training=True)
    pixels = photo('coffee')
    erased, again, whole = (t(pixels, np.random.default_rng(3)) for t in (transform, transform, plain))
    assert torch.equal(erased, again)
    assert 0.01 < (erased != whole).any(0).float().mean() < 0.4
    with pytest.raises(ValueError, match='re_prob needs normalize=True'):
        create_transform(64, is_training=True, re_prob=0.5, normalize=False)


@pytest.mark.parametrize(
    ('options', 'error', 'said'),
    [
        ({'color_jitter': (0.1, 0.2)}, ValueError, 'color_jitter is one strength, or'),
        ({'color_jitter': (0.1, 0.2, 0.3, 0.7)}, ValueError, 'the hue turns by at most 0.5'),
        ({'color_jitter_prob': 2}, ValueError, 'color_jitter_prob is a probability'),
        ({'grayscale_prob': -1}, ValueError, 'grayscale_prob is a probability'),
        ({'auto_augment': 'rnd-m9'}, ValueError, "policy 'rnd' of 'rnd-m9' is none of"),
        ({'auto_augmnt': 'rand-m9'}, TypeError, "no option 'auto_augmnt'; did you mean 'auto_augment'"),
        ({'re_prob': 0.5, 're_mode': 'grey'}, ValueError, 're_mode must be one of'),
        ({'interpolation': 'area'}, ValueError, 'interpolation must be one of'),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        create_transform(64, is_training=True, **options)


def test_interpolation_of_training_is_the_records_unless_asked() -> None:
    assert create_transform(64, is_training=True, interpolation='bicubic').crop.interpolation == 'bicubic'
    assert create_transform(64, is_training=True, interpolation='random').crop.interpolation == 'random'
    both = create_transform(64, is_training=True, interpolation='bicubic', train_interpolation='random')
    assert both.crop.interpolation == 'random'
    with pytest.raises(ValueError, match='interpolation'):
        create_transform(64, interpolation='random')


def test_border_pixels_are_cut_first_and_must_leave_something() -> None:
    pixels = photo('chelsea')
    cut = create_transform(64, crop_border_pixels=20)(pixels)
    assert torch.equal(cut, create_transform(64)(pixels[20:-20, 20:-20]))
    with pytest.raises(ValueError, match=r'crop_border_pixels=150 leaves nothing of a 300 x 451 image'):
        create_transform(64, crop_border_pixels=150)(pixels)
