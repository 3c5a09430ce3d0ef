"""What a check has found, as numbers, as a table and as pictures."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveal.data.check import FACTS, Split
from foveal.data.images import decode
from foveal.data.labels import MultiLabel
from foveal.data.readers import StreamReader

LISTED = 1000  # entries of each list of a report; the counts are whole
COLUMNS, ROWS, PAIRS = 10, 24, 12  # of the contact sheet
CELL, GAP, CAPTION = 96, 4, 190  # pixels


def report(splits: Mapping[str, Split]) -> dict[str, Any]:
    """All findings as what JSON can hold.

    `duplicates` are groups of samples whose decoded pixels are the same. A group is a leak where it lies in several
    splits, and a conflict where its labels differ.
    """
    groups = duplicate_groups(splits)
    rows = [
        [{'split': name, 'name': splits[name].name(at), 'label': splits[name].label(at)} for name, at in group]
        for group in groups
    ]
    leaks = [row for row in rows if len({entry['split'] for entry in row}) > 1]
    conflicts = [row for row in rows if len({repr(entry['label']) for entry in row}) > 1]
    return {
        'splits': {name: split_report(split) for name, split in splits.items()},
        'duplicates': {'groups': len(rows), 'images': sum(len(row) - 1 for row in rows), 'listed': rows[:LISTED]},
        'leaks': {'groups': len(leaks), 'listed': leaks[:LISTED]},
        'conflicts': {'groups': len(conflicts), 'listed': conflicts[:LISTED]},
    }


def split_report(split: Split) -> dict[str, Any]:
    """The findings in one split."""
    found, facts = split.found, split.found.facts
    count = len(facts) + len(found.unreadable)
    result: dict[str, Any] = {
        'count': count,
        'readable': len(facts),
        'unreadable': {'count': len(found.unreadable), 'listed': named(split, found.unreadable, 'reason')},
        'misnamed': {'count': len(found.misnamed), 'listed': named(split, found.misnamed, 'format')},
        'formats': dict(found.kinds.most_common()),
    }
    for key in ('width', 'height', 'bytes'):
        values = facts[key]
        result[key] = (
            {what: int(make(values)) for what, make in (('min', np.min), ('median', np.median), ('max', np.max))}
            if len(values)
            else None
        )
    sizes = Counter(zip(facts['width'].tolist(), facts['height'].tolist(), strict=True))
    result['sizes'] = [[*size, times] for size, times in sizes.most_common(10)]
    result['different_sizes'] = len(sizes)
    result['total_bytes'] = int(facts['bytes'].sum())
    if len(facts):
        mean = np.asarray(found.total) / len(facts)
        deviation = np.sqrt(np.maximum(np.asarray(found.squares) / len(facts) - mean**2, 0))
        result['mean'], result['std'] = mean.round(6).tolist(), deviation.round(6).tolist()
    return result | labels_report(split)


def labels_report(split: Split) -> dict[str, Any]:
    """How the labels are spread."""
    classes, task = split.reader.classes, split.reader.task
    result: dict[str, Any] = {'task': task, 'classes': len(classes)}
    if isinstance(split.targets, MultiLabel):
        counts = np.bincount(split.targets.indices, minlength=len(classes))
        return result | balance(classes, counts)
    targets = np.asarray(split.targets)
    if task == 'numbers':
        rows = targets.reshape(len(targets), -1)
        named_rows = zip(classes, rows.T, strict=True) if len(targets) else ()
        result['numbers'] = {
            name: {'min': float(row.min()), 'mean': float(row.mean()), 'max': float(row.max())}
            for name, row in named_rows
        }
        return result
    if task == 'class':
        known = targets[targets >= 0].astype(np.int64)
        counts = np.bincount(known, minlength=len(classes))
        result['unlabelled'] = len(targets) - len(known)
    else:
        counts = targets.sum(0).astype(np.int64) if len(targets) else np.zeros(len(classes), np.int64)
    return result | balance(classes, counts)


def balance(classes: list[str], counts: np.ndarray) -> dict[str, Any]:
    """Images of each class, and the classes without any."""
    return {
        'balance': dict(zip(classes, counts.tolist(), strict=True)),
        'empty_classes': [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0],
    }


def named(split: Split, found: list[tuple[int, str]], what: str) -> list[dict[str, str]]:
    """The first findings, with the names of their samples."""
    return [{'name': split.name(address), what: said} for address, said in found[:LISTED]]


def duplicate_groups(splits: Mapping[str, Split]) -> list[list[tuple[str, int]]]:
    """Samples (split, address) of the same content, where there are several; each group in order."""
    names = list(splits)
    facts = np.concatenate([splits[name].found.facts for name in names]) if names else np.zeros(0, FACTS)
    which = np.repeat(np.arange(len(names)), [len(splits[name].found.facts) for name in names])
    if not len(facts):
        return []
    order = np.lexsort((facts['address'], which, facts['low'], facts['high']))
    ordered = facts[order]
    same = (ordered['high'][1:] == ordered['high'][:-1]) & (ordered['low'][1:] == ordered['low'][:-1])
    groups: list[list[tuple[str, int]]] = []
    for i in np.flatnonzero(same):
        if not groups or i == 0 or not same[i - 1]:
            groups.append([(names[which[order[i]]], int(ordered['address'][i]))])
        groups[-1].append((names[which[order[i + 1]]], int(ordered['address'][i + 1])))
    return sorted(groups, key=lambda group: (names.index(group[0][0]), group[0][1]))


def problems(found: dict[str, Any]) -> list[str]:
    """What should be mended, the gravest first; empty where nothing is."""
    said = []
    for name, split in found['splits'].items():
        if split['unreadable']['count']:
            said.append(f'{name}: {split["unreadable"]["count"]} of {split["count"]} images cannot be read')
    if found['leaks']['groups']:
        said.append(f'images in more than one split: {found["leaks"]["groups"]}')
    if found['conflicts']['groups']:
        said.append(f'images with more than one label: {found["conflicts"]["groups"]}')
    return said


def contact_sheet(splits: Mapping[str, Split], channels: int) -> Image.Image:
    """A few images of every class, and those that lie in several places.

    A row for each class of each split; of many classes, some, evenly chosen. Below, pairs of the same content. Which
    images stand for a class is decided by their content, not by chance.
    """
    strips: list[tuple[str, list[tuple[str, int]]]] = []
    for name, split in splits.items():
        strips += [(f'{name}: {label}', [(name, address) for address in row]) for label, row in chosen(split)]
    pairs = duplicate_groups(splits)
    pairs.sort(key=lambda group: len({name for name, _ in group}) == 1)  # leaks first
    strips += [(caption(splits, group), group[:COLUMNS]) for group in pairs[:PAIRS]]
    width = CAPTION + COLUMNS * (CELL + GAP)
    sheet = Image.new('RGB', (width, max(len(strips), 1) * (CELL + GAP) + GAP), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (text, group) in enumerate(strips):
        top = GAP + row * (CELL + GAP)
        for line, part in enumerate(wrapped(text, draw, font)):
            draw.text((GAP, top + 4 + 16 * line), part, 'black', font)
        for column, (name, address) in enumerate(group):
            picture = thumbnail(splits[name], address, channels)
            left = CAPTION + column * (CELL + GAP)
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
    return sheet


def chosen(split: Split) -> list[tuple[str, list[int]]]:
    """Label and addresses of the images that stand for a class; without classes, of any."""
    facts = split.found.facts
    by_content = facts[np.argsort(facts['high'], kind='stable')]['address'].tolist()
    if isinstance(split.reader, StreamReader):
        return []
    if split.reader.task == 'numbers':
        return [('some', by_content[:COLUMNS])]
    members: dict[str, list[int]] = defaultdict(list)
    classes = split.reader.classes
    shown = {classes[int(i)] for i in np.linspace(0, len(classes) - 1, min(len(classes), ROWS)).round()}
    for address in by_content:
        label = split.label(address)
        names = (
            [label]
            if isinstance(label, str)
            else [c for c, is_one in zip(classes, label or (), strict=False) if is_one]
        )
        for name in names:
            if name in shown and len(members[name]) < COLUMNS:
                members[name].append(address)
    return [(name, members[name]) for name in classes if members.get(name)]


def caption(splits: Mapping[str, Split], group: list[tuple[str, int]]) -> str:
    """What images of the same content are called."""
    names = [f'{name}/{splits[name].name(address)}' for name, address in group[:3]]
    return 'same:\n' + '\n'.join(names) + (f'\nand {len(group) - 3} more' if len(group) > 3 else '')


def wrapped(text: str, draw: ImageDraw.ImageDraw, font: Any) -> list[str]:
    """A text in the lines that fit beside a row of images."""
    lines = ['']
    for letter in text:
        if letter == '\n' or draw.textlength(lines[-1] + letter, font) > CAPTION - 3 * GAP:
            lines.append('')
        lines[-1] += letter.strip('\n')
    return lines[: CELL // 16]


def thumbnail(split: Split, address: int, channels: int) -> Image.Image:
    """An image of a split, no larger than a cell: grey, colours, or the first three of more channels, stretched."""
    assert not isinstance(split.reader, StreamReader)
    pixels = decode(split.reader.read(address), channels)
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (2, 98))
        pixels = ((pixels - low) / max(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels).convert('RGB')
    picture.thumbnail((CELL, CELL))
    if max(picture.size) < CELL // 2:
        # the pixels of tiny images are what is to be seen
        factor = CELL // max(picture.size)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture
