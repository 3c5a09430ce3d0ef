"""Tables of the published policies: what they are made of, as data."""

Pair = tuple[tuple[str, float, float], ...]

# (operation, probability, level), found for ImageNet by the search of AutoAugment (arXiv:1805.09501): the policy that
# the published EfficientNets were trained with, and that of the paper's appendix
V0 = (
    (('Equalize', 0.8, 1), ('ShearY', 0.8, 4)),
    (('Color', 0.4, 9), ('Equalize', 0.6, 3)),
    (('Color', 0.4, 1), ('Rotate', 0.6, 8)),
    (('Solarize', 0.8, 3), ('Equalize', 0.4, 7)),
    (('Solarize', 0.4, 2), ('Solarize', 0.6, 2)),
    (('Color', 0.2, 0), ('Equalize', 0.8, 8)),
    (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3)),
    (('ShearX', 0.2, 9), ('Rotate', 0.6, 8)),
    (('Color', 0.6, 1), ('Equalize', 1.0, 2)),
    (('Invert', 0.4, 9), ('Rotate', 0.6, 0)),
    (('Equalize', 1.0, 9), ('ShearY', 0.6, 3)),
    (('Color', 0.4, 7), ('Equalize', 0.6, 0)),
    (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7)),
    (('Solarize', 0.6, 8), ('Color', 0.6, 9)),
    (('Solarize', 0.2, 4), ('Rotate', 0.8, 9)),
    (('Rotate', 1.0, 7), ('TranslateYRel', 0.8, 9)),
    (('ShearX', 0.0, 0), ('Solarize', 0.8, 4)),
    (('ShearY', 0.8, 0), ('Color', 0.6, 4)),
    (('Color', 1.0, 0), ('Rotate', 0.6, 2)),
    (('Equalize', 0.8, 4), ('Equalize', 0.0, 8)),
    (('Equalize', 1.0, 4), ('AutoContrast', 0.6, 2)),
    (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7)),
    (('Posterize', 0.8, 2), ('Solarize', 0.6, 10)),
    (('Solarize', 0.6, 8), ('Equalize', 0.6, 1)),
    (('Color', 0.8, 6), ('Rotate', 0.4, 5)),
)
ORIGINAL = (
    (('PosterizeOriginal', 0.4, 8), ('Rotate', 0.6, 9)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
    (('PosterizeOriginal', 0.6, 7), ('PosterizeOriginal', 0.6, 6)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
    (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
    (('PosterizeOriginal', 0.8, 5), ('Equalize', 1.0, 2)),
    (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
    (('Equalize', 0.6, 8), ('PosterizeOriginal', 0.4, 6)),
    (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
    (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
    (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
    (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
    (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
    (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
    (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)

# three-augment (arXiv:2204.07118)
THREE = ((('Solarize', 1.0, 5),), (('Desaturate', 1.0, 10),), (('GaussianBlurRand', 1.0, 10),))


def research(policy: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The policy with the posterize of the authors' research code, which keeps fewer bits at higher levels."""
    renamed = {'Posterize': 'PosterizeIncreasing', 'PosterizeOriginal': 'PosterizeIncreasing'}
    return tuple(tuple((renamed.get(name, name), p, level) for name, p, level in pair) for pair in policy)


SUB_POLICIES: dict[str, tuple[Pair, ...]] = {
    'v0': V0,
    'v0r': research(V0),
    'original': ORIGINAL,
    'originalr': research(ORIGINAL),
    '3a': THREE,
}

# RandAugment (arXiv:1909.13719)
ENHANCERS = ('Color', 'Contrast', 'Brightness', 'Sharpness')
MOVES = ('ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel')
FIRST = ('AutoContrast', 'Equalize', 'Invert', 'Rotate')
RAND = (*FIRST, 'Posterize', 'Solarize', 'SolarizeAdd', *ENHANCERS, *MOVES)
INCREASING = tuple(f'{name}Increasing' for name in ENHANCERS)
RAND_INCREASING = (*FIRST, 'PosterizeIncreasing', 'SolarizeIncreasing', 'SolarizeAdd', *INCREASING, *MOVES)

# sets of the key `t`: operation -> weight
RAND_SETS: dict[str, dict[str, float]] = {
    '3a': {'SolarizeIncreasing': 1, 'Desaturate': 1, 'GaussianBlur': 1},
    '3aw': {
        **dict.fromkeys(('SolarizeIncreasing', 'Desaturate', 'GaussianBlur'), 6),
        'Rotate': 3,
        'ShearX': 2,
        'ShearY': 2,
        **dict.fromkeys(('PosterizeIncreasing', 'AutoContrast', 'ColorIncreasing', 'SharpnessIncreasing'), 1),
        **dict.fromkeys(('ContrastIncreasing', 'BrightnessIncreasing', 'Equalize', 'Invert'), 1),
    },
    'weights': {
        'Rotate': 3,
        'ShearX': 2,
        'ShearY': 2,
        'TranslateXRel': 1,
        'TranslateYRel': 1,
        **dict.fromkeys(('ColorIncreasing', 'SharpnessIncreasing', 'AutoContrast'), 0.25),
        **dict.fromkeys(('SolarizeIncreasing', 'SolarizeAdd', 'ContrastIncreasing', 'BrightnessIncreasing'), 0.05),
        **dict.fromkeys(('Equalize', 'PosterizeIncreasing', 'Invert'), 0.05),
    },
}

# AugMix (arXiv:1912.02781)
AUGMIX = (
    'AutoContrast',
    *INCREASING,
    'Equalize',
    'Rotate',
    'PosterizeIncreasing',
    'SolarizeIncreasing',
    *MOVES,
)
