"""Every operation against an independent implementation, on photographs."""

import colorsys
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from foveal.data import ops
from foveal.data.color import turn_hue
from foveal.data.ops import OPERATIONS, Settings
from foveal.data.resize import crop_or_pad, resize
from tests.photos import NAMES, photo
from tests.reference import rows

RNG = np.random.default_rng(0)
FILL = (124, 116, 104)
REFERENCE = dict(rows('augment'))


def dark(name: str) -> np.ndarray:
    """A photograph that does not reach the ends of the range."""
    return photo(name) // 3 + 40


@pytest.mark.parametrize('name', NAMES)
def test_operations_on_levels_equal_pillows(name: str) -> None:
    """Exactly: they replace each level by another, so there is nothing to round."""
    for pixels in (photo(name), dark(name), dark(name)[:, :, :1]):
        grey = pixels.shape[2] == 1
        image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
        pairs = [
            (ops.equalize(pixels), ImageOps.equalize(image)),
            (ops.invert(pixels), ImageOps.invert(image)),
            *((ops.posterize(pixels, bits), ImageOps.posterize(image, bits)) for bits in (1, 2, 4, 7, 8)),
            *((ops.solarize(pixels, at), ImageOps.solarize(image, at)) for at in (0, 1, 77, 128, 256)),
        ]
        for got, expected in pairs:
            assert got.shape == pixels.shape
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, np.asarray(expected).reshape(pixels.shape))
        low, high = pixels.min((0, 1)).astype(int), pixels.max((0, 1)).astype(int)
        stretched = ops.auto_contrast(pixels)
        np.testing.assert_array_equal(stretched, (pixels - low) * 255 // (high - low))
        # where the product is a whole number, Pillow's floating point may fall just short of it
        expected = np.asarray(ImageOps.autocontrast(image)).reshape(pixels.shape)
        np.testing.assert_allclose(stretched, expected, atol=1)


def test_a_picture_of_one_colour_is_left_alone() -> None:
    plain = np.full((30, 40, 3), (7, 7, 200), np.uint8)
    np.testing.assert_array_equal(ops.auto_contrast(plain), plain)
    np.testing.assert_array_equal(ops.equalize(plain), plain)


def test_posterize_to_no_bits_is_black_and_to_more_than_eight_the_image() -> None:
    pixels = photo('coffee')
    assert not ops.posterize(pixels, 0).any()
    np.testing.assert_array_equal(ops.posterize(pixels, 9), pixels)
    level = OPERATIONS['PosterizeIncreasing']
    assert not level(pixels, 10, RNG, Settings()).any()


def test_solarize_add_is_its_formula() -> None:
    pixels = photo('coffee')
    for add in (0, 11, 110):
        wide = pixels.astype(int)
        np.testing.assert_array_equal(
            ops.solarize_add(pixels, add), np.where(wide < 128, np.minimum(255, wide + add), wide)
        )


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('factor', [0.0, 0.1, 0.55, 1.0, 1.45, 1.9])
def test_enhancements_equal_pillows(name: str, factor: float) -> None:
    """To one level: Pillow cuts fractions off and rounds its grey and its blur on the way, ours rounds once."""
    pixels = photo(name)
    for kind, operation in ops.ENHANCERS.items():
        expected = getattr(ImageEnhance, kind)(Image.fromarray(pixels)).enhance(factor)
        np.testing.assert_allclose(operation(pixels, factor), expected, atol=1, err_msg=kind)
    desaturated = ImageEnhance.Color(Image.fromarray(pixels)).enhance(1 - min(1, factor))
    np.testing.assert_allclose(ops.desaturate(pixels, min(1, factor)), desaturated, atol=1)


def test_a_grey_image_has_contrast_and_brightness_but_no_colour() -> None:
    pixels = np.asarray(Image.fromarray(photo('chelsea')).convert('L'))
    for kind in ('Contrast', 'Brightness', 'Sharpness'):
        expected = getattr(ImageEnhance, kind)(Image.fromarray(pixels)).enhance(1.6)
        np.testing.assert_allclose(ops.ENHANCERS[kind](pixels[..., None], 1.6)[..., 0], expected, atol=1)
    np.testing.assert_array_equal(ops.color(pixels[..., None], 1.6)[..., 0], pixels)
    np.testing.assert_array_equal(turn_hue(pixels[..., None], 0.2)[..., 0], pixels)


def keys(distance: np.ndarray) -> np.ndarray:
    """The cubic kernel of Keys 1981 with a = -0.75, as OpenCV documents it."""
    x, a = np.abs(distance), -0.75
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def sample(pixels: np.ndarray, matrix: np.ndarray, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Where `matrix` points to from every pixel, interpolated in float64; and where all the pixels it needs exist."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = (row[0] * x + row[1] * y + row[2] - 0.5 for row in np.asarray(matrix, float))
    reach = 1 if interpolation == 'bilinear' else 2
    weight = (lambda d: np.maximum(0, 1 - np.abs(d))) if interpolation == 'bilinear' else keys
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (left >= reach - 1) & (left < width - reach) & (top >= reach - 1) & (top < height - reach)
    total = np.zeros(pixels.shape)
    for i in range(1 - reach, reach + 1):
        for j in range(1 - reach, reach + 1):
            at = pixels[np.clip(top + i, 0, height - 1), np.clip(left + j, 0, width - 1)]
            total += at * (weight(y - top - i) * weight(x - left - j))[..., None]
    return np.clip(total, 0, 255), inside


def turned(degrees: float, height: int, width: int) -> np.ndarray:
    """Counter-clockwise about the centre, from output to input."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    to, back = np.eye(3), np.eye(3)
    to[:2, 2], back[:2, 2] = (-width / 2, -height / 2), (width / 2, height / 2)
    return (back @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]] @ to)[:2]


MOVES = {
    'rotate 30': (ops.rotate, 30, lambda h, w: turned(30, h, w)),
    'rotate -7.5': (ops.rotate, -7.5, lambda h, w: turned(-7.5, h, w)),
    'shear x': (ops.shear_x, 0.285, lambda h, w: [[1, 0.285, 0], [0, 1, 0]]),
    'shear y': (ops.shear_y, -0.3, lambda h, w: [[1, 0, 0], [-0.3, 1, 0]]),
    'translate x': (ops.translate_x, 33.4, lambda h, w: [[1, 0, 33.4], [0, 1, 0]]),
    'translate y': (ops.translate_y, -20, lambda h, w: [[1, 0, 0], [0, 1, -20]]),
    'translate x rel': (ops.translate_x_rel, 0.4275, lambda h, w: [[1, 0, 0.4275 * w], [0, 1, 0]]),
    'translate y rel': (ops.translate_y_rel, 0.2, lambda h, w: [[1, 0, 0], [0, 1, 0.2 * h]]),
}


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('move', MOVES)
def test_moves_equal_their_formula_in_float64(move: str, interpolation: str) -> None:
    """To half a level, of rounding: OpenCV 5 computes places and weights exactly (4 kept places to 1/32 of a pixel)."""
    operation, value, matrix = MOVES[move]
    for name in ('chelsea', 'coffee'):
        pixels = photo(name)
        got = operation(pixels, value, Settings(FILL, interpolation), RNG)
        expected, inside = sample(pixels, matrix(*pixels.shape[:2]), interpolation)
        assert inside.mean() > 0.4
        assert np.abs(got - expected)[inside].max() <= 0.51


@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic'])
@pytest.mark.parametrize('pixels', [33.4, -20.75, 7, 1000.5])
def test_translations_equal_opencvs_whole_warp(pixels: float, interpolation: str) -> None:
    """To one level, of rounding, at the border too, which both blend into the fill."""
    settings = Settings(FILL, interpolation)
    for image in (photo('coffee'), photo('coffee')[:, :, :1]):
        for axis, move in enumerate((ops.translate_y, ops.translate_x)):
            matrix = np.eye(2, 3)
            matrix[1 - axis, 2] = pixels
            got = move(image, pixels, settings, RNG)
            expected = ops.affine(image, matrix, settings, ops.WARPS[interpolation])
            assert got.shape == image.shape
            assert got.flags.c_contiguous
            np.testing.assert_allclose(got.astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('factor', [0.285, -0.3, 0.001, 0.0, 3.0])
def test_shears_equal_opencvs_whole_warp(factor: float, interpolation: str) -> None:
    """To one level, of rounding, at the border too, which both blend into the fill."""
    settings = Settings(FILL, interpolation)
    for image in (photo('coffee'), photo('coffee')[:, :, :1].copy()):
        for axis, move in enumerate((ops.shear_y, ops.shear_x)):
            matrix = np.eye(2, 3)
            matrix[1 - axis, axis] = factor
            got = move(image, factor, settings, RNG)
            # in floating point: of one channel of bytes OpenCV keeps places to 1/32 of a pixel
            expected = ops.affine(image.astype(np.float32), matrix, settings, ops.WARPS[interpolation])
            assert got.shape == image.shape
            assert got.flags.c_contiguous
            np.testing.assert_allclose(got, expected.clip(0, 255), atol=1)


def test_deep_images_of_many_channels_are_translated_as_ordinary_ones_are() -> None:
    """To half a level of the ordinary ones, of their rounding."""
    shallow = photo('coffee')
    deep = np.concatenate([shallow] * 2, axis=2).astype(np.uint16) * 200
    expected = 200 * ops.translate_x(shallow, 33.4, Settings((10,), 'bilinear'), RNG).astype(int)
    got = ops.translate_x(deep, 33.4, Settings((2000,), 'bilinear'), RNG)
    np.testing.assert_allclose(got, np.concatenate([expected] * 2, axis=2), atol=101)


@pytest.mark.parametrize('move', MOVES)
def test_moves_equal_pillows(move: str) -> None:
    """To a level, but for 0.5% of the values: at the border ours blends into the fill, Pillow's edge is hard."""
    operation, value, matrix = MOVES[move]
    for name in NAMES:
        pixels = photo(name)
        got = operation(pixels, value, Settings(FILL, 'bilinear'), RNG).astype(int)
        coefficients = np.asarray(matrix(*pixels.shape[:2]), float).ravel().tolist()
        image = Image.fromarray(pixels)
        expected = image.transform(
            image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=FILL
        )
        difference = np.abs(got - np.asarray(expected))
        assert (difference > 1).mean() < 0.005
        assert difference.mean() < 1


@pytest.mark.parametrize('sigma', [0.1, 0.7, 1.3, 2.0])
def test_blur_equals_scipys(sigma: float) -> None:
    """To 1.25 levels, of rounding between the two directions and at the end."""
    pixels = photo('astronaut')
    expected = gaussian_filter(pixels.astype(float), (sigma, sigma, 0), mode='mirror', truncate=6)
    np.testing.assert_allclose(ops.gaussian_blur(pixels, sigma), expected, atol=1.25)
    # Pillow's is three box blurs, so it only looks alike
    boxes = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    assert np.abs(ops.gaussian_blur(pixels, sigma) - boxes).mean() < 1.5


def test_hue_turns_as_colorsys_says() -> None:
    """To six levels and one on average: hues and saturations are held in 256 steps on the way."""
    pixels = photo('coffee')[::16, ::16]
    for share in (-0.5, -0.1, 0.07, 0.25):
        expected = [
            colorsys.hsv_to_rgb((h + share) % 1, s, v)
            for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3) / 255)
        ]
        difference = np.abs(turn_hue(pixels, share) - 255 * np.array(expected).reshape(pixels.shape))
        assert difference.max() <= 6
        assert difference.mean() < 1


def test_there_are_27_operations_and_a_level_means_what_it_did() -> None:
    """The arguments at each level, with both signs, as measured on timm 1.0.31."""
    assert set(OPERATIONS) == set(REFERENCE['levels'])
    assert len(OPERATIONS) == 27
    settings = Settings(translate_const=100)
    for name, levels in REFERENCE['levels'].items():
        argument = OPERATIONS[name].argument
        if levels is None:
            assert argument is None
            continue
        for level, expected in levels:
            signs = (1, -1) if OPERATIONS[name].signed else (1,)
            got = sorted({round(argument(level, sign, settings), 6) + 0.0 for sign in signs})
            assert got == pytest.approx(expected), (name, level)


@pytest.mark.parametrize('name', OPERATIONS)
def test_an_operation_keeps_the_image_and_its_own_size(name: str) -> None:
    for pixels in (photo('small'), photo('small')[:, :, :1].copy()):
        before = pixels.copy()
        for level in (0, 5, 10):
            got = OPERATIONS[name](pixels, level, np.random.default_rng(1), Settings(FILL))
            assert got.shape == pixels.shape
            assert got.dtype == np.uint8
        np.testing.assert_array_equal(pixels, before)


def test_signs_come_up_alike() -> None:
    pixels, rng = np.zeros((4, 4, 3), np.uint8), np.random.default_rng(3)
    seen: list[float] = []
    spy = OPERATIONS['ShearX']._replace(apply=lambda image, value, *_: seen.append(value))
    for _ in range(2000):
        spy(pixels, 10, rng, Settings())
    assert set(seen) == {0.3, -0.3}
    assert abs(sum(value > 0 for value in seen) - 1000) < 5 * math.sqrt(500)


def test_random_blur_is_wider_at_higher_strength() -> None:
    pixels, rng = photo('small'), np.random.default_rng(4)
    sharp = [np.abs(np.diff(ops.gaussian_blur_rand(pixels, s, Settings(), rng).astype(int))).mean() for s in (0.2, 1.0)]
    assert sharp[0] > sharp[1]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('channels', [2, 5, 13])
def test_many_channels_are_moved_one_like_the_other(channels: int, dtype: type) -> None:
    scale = {np.uint8: 1, np.uint16: 250, np.float32: 1 / 255}[dtype]
    plane = photo('small')[:, :, 0]
    pixels = np.stack([np.roll(plane, i, axis=0) for i in range(channels)], axis=2).astype(dtype) * dtype(scale)
    settings = Settings((0,), 'bilinear')
    for operation, value in ((ops.rotate, 20), (ops.shear_x, 0.2), (ops.translate_y_rel, 0.1)):
        got = operation(pixels, value, settings, RNG)
        assert got.shape == pixels.shape
        assert got.dtype == dtype
        for i in range(channels):
            alone = operation(pixels[:, :, i : i + 1].copy(), value, settings, RNG)
            # to four levels of 255: of two channels OpenCV keeps places to 1/32 of a pixel
            difference = np.abs(got[:, :, i : i + 1].astype(float) - alone) / scale
            assert difference.max() <= 4.01
            assert difference.mean() < 0.1
    for name in ('Equalize', 'Color', 'Posterize', 'Sharpness', 'AutoContrast'):
        with pytest.raises(ValueError, match=f'{name} needs a grey or RGB image of uint8, got {channels} channels'):
            OPERATIONS[name](pixels, 5, RNG, settings)


FILTERS = {name: Image.Resampling[name.upper()] for name in ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos')}


@pytest.mark.parametrize('interpolation', FILTERS)
@pytest.mark.parametrize('size', [(160, 160), (224, 300), (90, 700)])
def test_resizing_equals_pillows(interpolation: str, size: tuple[int, int]) -> None:
    """To one level; bicubic to more in one value of two thousand: both round overshoots between the two directions.

    The exact result (of Pillow in float32) shows that neither of them is the worse one.
    """
    for name in NAMES:
        got = resize(photo(name), size, interpolation)
        expected = Image.fromarray(photo(name)).resize(size[::-1], FILTERS[interpolation])
        difference = np.abs(got.astype(int) - np.asarray(expected))
        assert difference.max() <= (12 if interpolation == 'bicubic' else 1)
        assert (difference > 1).mean() <= 5e-4
        if interpolation == 'bicubic':
            planes = [Image.fromarray(photo(name)[:, :, i].astype(np.float32)) for i in range(3)]
            exact = np.stack([plane.resize(size[::-1], FILTERS[interpolation]) for plane in planes], axis=2).clip(
                0, 255
            )
            assert np.abs(got - exact).mean() < 1.01 * np.abs(expected - exact).mean()


def test_deep_and_many_channels_are_resized_one_like_the_other() -> None:
    plane = photo('chelsea')[:, :, 1].astype(np.float32)
    for interpolation in ('nearest', 'bilinear', 'bicubic', 'lanczos'):
        expected = np.asarray(Image.fromarray(plane).resize((90, 110), FILTERS[interpolation]))
        for dtype, scale, tolerance in ((np.float32, 1, 1e-3), (np.uint16, 250, 0.51)):
            pixels = np.stack([plane * scale] * 5, axis=2).astype(dtype)
            got = resize(pixels, (110, 90), interpolation)
            assert got.dtype == dtype
            assert got.shape == (110, 90, 5)
            wanted = np.clip(expected * scale, 0, 65535) if dtype == np.uint16 else expected
            np.testing.assert_allclose(got[:, :, 3], wanted, atol=tolerance + 1e-5 * scale * 255)


@pytest.mark.parametrize('mode', ['constant', 'edge', 'reflect', 'symmetric'])
@pytest.mark.parametrize('channels', [1, 3, 6])
def test_windows_over_the_edge_are_padded_as_numpy_does(mode: str, channels: int) -> None:
    pixels = RNG.integers(0, 256, (20, 30, channels), dtype=np.uint8)
    padded = np.pad(pixels, ((15, 15), (15, 15), (0, 0)), mode)
    for top, left, height, width in (
        (-5, -7, 12, 12),
        (3, 4, 10, 10),
        (15, 20, 12, 15),
        (-3, 22, 26, 9),
        (2, -6, 4, 40),
    ):
        got = crop_or_pad(pixels, top, left, (height, width), mode=mode)
        np.testing.assert_array_equal(got, padded[15 + top :, 15 + left :][:height, :width])
