r"""Check a labelled set before training on it.

Reads every frame once. Faults, each named with its file: an image or mask without its other half,
files that do not decode, sizes that differ, codes that the ontology does not list, masks without
any label, and pictures that are in both training and validation. Exit status 1 if there are any.

Examples:
  python -m training.audit --dataset ycor --root ../shared/data/ycor --ontology ycor-8 \
      --out out/audit_ycor
  python -m training.audit --dataset rugd --root ~/RUGD --ontology rugd-24 --by official \
      --out out/audit_rugd
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
import sys
from typing import Any, get_args

import cv2
import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from desertmind_seg.model.ontology import UNLABELED, Ontology, OntologyError, load_ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.reports.page import (
    Fact,
    Section,
    environment_section,
    frames_section,
    output_folder,
    plots_section,
    write_json,
    write_report,
)
from training.data.datasets import split_frames
from training.data.frames import DatasetError, LabelledFrame, UInt8Array, UnknownCodesError
from training.data.layouts import read_layout
from training.networks.checkpoint import environment
from training.recipe import DatasetName, SplitSection

REPORT, JSON = 'report.html', 'audit.json'

_BANDS = 32  # of the image's height, for where each class lies
_DEPTH_BIN_M, _DEPTH_BINS = 0.25, 400
_HASH_SIDE = 16  # a hash of 255 bits
# Of 115 248 pairs across YCOR's block split, 10 differ in at most a fifth of their bits: all show
# one place, driven twice. Two pictures of different places differ in about half.
_NEAR_BITS = 0.2
_SHOWN_PAIRS = 8
_SHOWN_FRAMES = 24
_TILE_PX = 400

_FAULTS = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>kind</th><th>what</th></tr>
{%- for fault in faults %}<tr><td>{{ fault.kind }}</td><td>{{ fault.text }}</td></tr>{% endfor %}
{%- if more %}<tr><td></td><td>and {{ more }} more, in audit.json</td></tr>{% endif %}</table>"""
)

_CLASSES = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>id</th><th>class</th><th></th><th class="number">share</th>
<th class="number">Mpx</th><th class="number">frames</th>
{%- for side in sides %}<th class="number">{{ side }} Mpx</th>{% endfor %}</tr>
{%- for row in rows %}
<tr><td>{{ row.id }}</td>
<td><i class="swatch" style="background: {{ row.color }}"></i>{{ row.name }}</td>
<td class="bar"><div><div style="width: {{ row.width }}%"></div></div></td>
<td class="number">{{ row.share }}</td><td class="number">{{ row.pixels }}</td>
<td class="number">{{ row.frames }}</td>
{%- for count in row.by_side %}<td class="number">{{ count }}</td>{% endfor %}</tr>
{%- endfor %}</table>"""
)


@dataclass
class Findings:
    """What reading every frame once found; arrays have a row for each readable frame.

    Attributes:
        frames: those that were readable and consistent.
        pixels: int64 (frames, C) labelled pixels.
        bands: int64 (C, bands) labelled pixels by height in the image, top first.
        total_pixels: of all masks, with or without label.
        sizes: frames of each (height, width).
        hashes: bool (frames, bits).
        depth_histogram: int64, bins of 0.25 m, the last open.
        depth_missing: pixels without depth, of frames that have any.
        faults: `kind` and `text`; unknown codes with `file`, `code` and `pixels` too.
        warnings: what is worth knowing and no fault.
    """

    ontology: Ontology
    frames: list[LabelledFrame] = field(default_factory=list)
    pixels: list[npt.NDArray[np.int64]] = field(default_factory=list)
    bands: npt.NDArray[np.int64] = field(init=False)
    total_pixels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    hashes: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    depth_histogram: npt.NDArray[np.int64] = field(init=False)
    depth_missing: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bands = np.zeros((self.ontology.num_classes, _BANDS), np.int64)
        self.depth_histogram = np.zeros(_DEPTH_BINS + 1, np.int64)

    def fault(self, kind: str, text: str, **more: Any) -> None:
        """Note a fault."""
        self.faults.append({'kind': kind, 'text': text, **more})

    def add(self, frame: LabelledFrame) -> None:
        """Read a frame and note what it holds, or what is wrong with it."""
        try:
            rgb = frame.read_rgb()
            labels = frame.read_labels(self.ontology)
            depth = frame.measured_depth()
        except UnknownCodesError as err:
            for code, pixels in err.unknown.items():
                file = str(err).partition(':')[0]
                text = f'{file}: {code} in {pixels} pixels is not in {self.ontology.name}'
                self.fault('unknown code', text, file=file, code=code, pixels=pixels)
            return
        except DatasetError as err:
            self.fault('unreadable', str(err))
            return
        sizes = {'image': rgb.shape[:2], 'labels': labels.shape}
        if depth is not None:
            sizes['depth'] = depth.shape
        if len(set(sizes.values())) > 1:
            self.fault('size', f'{frame.name}: {sizes} (H, W); they must be equal')
            return
        counts = np.bincount(labels.ravel(), minlength=256)
        if counts[UNLABELED] == labels.size:
            self.fault('no label', f'{frame.name}: none of its {labels.size} pixels has a label')
        self.frames.append(frame)
        self.pixels.append(counts[: self.ontology.num_classes])
        self.total_pixels += labels.size
        self.sizes[labels.shape] += 1
        self.hashes.append(perceptual_hash(rgb))
        height = labels.shape[0]
        band = np.arange(height)[:, None] * _BANDS // height
        cells = band * 256 + labels.astype(np.int64)
        by_band = np.bincount(cells.ravel(), minlength=_BANDS * 256).reshape(_BANDS, 256)
        self.bands += by_band[:, : self.ontology.num_classes].T
        if depth is not None:
            steps = np.minimum(depth / _DEPTH_BIN_M, _DEPTH_BINS).astype(np.int64)
            missing = depth <= 0
            self.depth_missing += int(missing.sum())
            self.depth_histogram += np.bincount(steps[~missing], minlength=_DEPTH_BINS + 1)


def perceptual_hash(rgb: UInt8Array) -> npt.NDArray[np.bool_]:
    """Hash what a picture looks like: bool (255,), the signs of its lowest frequencies.

    The pHash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    with 16 x 16 in place of 8 x 8 coefficients of the cosine transform, and without the mean.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    side = 4 * _HASH_SIDE
    small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_HASH_SIDE, :_HASH_SIDE].ravel()[1:]
    return np.asarray(low > np.median(low), np.bool_)


@dataclass(frozen=True)
class NearPair:
    """Two frames on different sides of the split that look alike, by position in the findings."""

    first: int
    second: int
    distance: float  # share of hash bits that differ


def near_pairs(
    hashes: npt.NDArray[np.bool_], sides: Sequence[str], limit: float = _NEAR_BITS
) -> list[NearPair]:
    """Find pairs across the split whose hashes differ in at most `limit` of their bits.

    Args:
        hashes: bool (N, bits).
        sides: which part each is in.
        limit: 0..1.

    Returns:
        The nearest pair first.
    """
    bits = hashes.shape[1]
    signs = np.where(hashes, 1.0, -1.0).astype(np.float32)
    side = np.array(sides)
    found = []
    # Row by row: a set of 12 000 frames has 72 million pairs.
    for first in range(len(signs)):
        distance = (bits - signs[first + 1 :] @ signs[first]) / (2.0 * bits)
        others = np.flatnonzero((distance <= limit) & (side[first + 1 :] != side[first]))
        found += [NearPair(first, first + 1 + int(k), float(distance[k])) for k in others]
    return sorted(found, key=lambda pair: pair.distance)


def audit(dataset: str, root: str, split: SplitSection, ontology: Ontology) -> dict[str, Any]:
    """Check all frames of a set.

    Returns:
        `document` (what audit.json holds) and `sections` (of the report).

    Raises:
        DatasetError: there is nothing of this layout at the root.
    """
    listing = read_layout(dataset, root, ontology, split.block_frames)
    findings = Findings(ontology)
    for text in listing.unpaired:
        findings.fault('unpaired', text)
    side_of = split_frames(listing.frames, split)
    for frame in tqdm(listing.frames, desc='reading', unit='frame'):
        findings.add(frame)
    sides = [side_of[frame.name] for frame in findings.frames]
    pairs = near_pairs(np.array(findings.hashes), sides) if findings.frames else []
    _judge_pairs(findings, pairs, sides)
    _judge_classes(findings, sides)
    document = {
        'dataset': dataset,
        'root': root,
        'ontology': {'name': ontology.name, 'sha256': ontology.sha256},
        'split': split.model_dump(mode='json'),
        'frames': len(listing.frames),
        'readable_frames': len(findings.frames),
        'groups': len({frame.group for frame in listing.frames}),
        'sides': dict(Counter(side_of.values())),
        'sizes': [
            {'height': height, 'width': width, 'frames': frames}
            for (height, width), frames in findings.sizes.most_common()
        ],
        'unlabelled_share': _unlabelled_share(findings),
        'classes': _class_rows(findings, sides),
        'vertical_prior': {
            'bands': _BANDS,
            'share_by_class': {
                name: (row / max(row.sum(), 1)).round(5).tolist()
                for name, row in zip(ontology.names, findings.bands, strict=True)
            },
        },
        'depth': _depth_document(findings),
        'near_duplicates': {
            'limit': _NEAR_BITS,
            'pairs': [
                {
                    'first': findings.frames[pair.first].name,
                    'first_side': sides[pair.first],
                    'second': findings.frames[pair.second].name,
                    'second_side': sides[pair.second],
                    'distance': round(pair.distance, 4),
                }
                for pair in pairs
            ],
        },
        'faults': findings.faults,
        'warnings': findings.warnings,
        'environment': environment(),
    }
    return {'document': document, 'sections': _sections(document, findings, pairs)}


def _judge_pairs(findings: Findings, pairs: Sequence[NearPair], sides: Sequence[str]) -> None:
    equal = 0
    for pair in pairs:
        first, second = findings.frames[pair.first], findings.frames[pair.second]
        if pair.distance == 0.0 and np.array_equal(first.read_rgb(), second.read_rgb()):
            equal += 1
            findings.fault(
                'same picture on two sides',
                f'{first.name} ({sides[pair.first]}) and {second.name} ({sides[pair.second]})',
            )
    if len(pairs) > equal:
        findings.warnings.append(
            f'{len(pairs) - equal} pairs of frames across the split look alike (at most '
            f'{_NEAR_BITS:.0%} of the hash bits differ): scores on them are scores on training '
            'data. Larger blocks or a split by sequence part neighbours; places that were passed '
            'twice need a look at the pictures.'
        )


def _judge_classes(findings: Findings, sides: Sequence[str]) -> None:
    by_side = _pixels_by_side(findings, sides)
    for side, pixels in by_side.items():
        absent = [
            name for name, count in zip(findings.ontology.names, pixels, strict=True) if count == 0
        ]
        if absent:
            findings.warnings.append(f'no pixel in {side}: {", ".join(absent)}')


def _pixels_by_side(findings: Findings, sides: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    pixels = np.array(findings.pixels).reshape(-1, findings.ontology.num_classes)
    return {side: pixels[np.array(sides) == side].sum(axis=0) for side in dict.fromkeys(sides)}


def _unlabelled_share(findings: Findings) -> float | None:
    if not findings.total_pixels:
        return None
    labelled = sum(int(row.sum()) for row in findings.pixels)
    return round(1.0 - labelled / findings.total_pixels, 6)


def _class_rows(findings: Findings, sides: Sequence[str]) -> list[dict[str, Any]]:
    by_side = _pixels_by_side(findings, sides)
    pixels = np.array(findings.pixels).reshape(-1, findings.ontology.num_classes)
    total = max(int(pixels.sum()), 1)
    return [
        {
            'id': entry.id,
            'name': entry.name,
            'pixels': int(pixels[:, entry.id].sum()),
            'share': float(pixels[:, entry.id].sum() / total),
            'frames': int((pixels[:, entry.id] > 0).sum()),
            'pixels_by_side': {side: int(row[entry.id]) for side, row in by_side.items()},
        }
        for entry in findings.ontology.classes
    ]


def _depth_document(findings: Findings) -> dict[str, Any] | None:
    measured = int(findings.depth_histogram.sum())
    pixels = measured + findings.depth_missing
    if not pixels:
        return None
    cumulative = np.cumsum(findings.depth_histogram) / max(measured, 1)
    return {
        'frames': sum(frame.has_depth for frame in findings.frames),
        'missing_share': findings.depth_missing / pixels,
        # Upper edges of the bins in which the percentiles lie.
        'percentiles_m': {
            str(p): round(float(_DEPTH_BIN_M * (np.searchsorted(cumulative, p / 100) + 1)), 2)
            for p in (1, 25, 50, 75, 99)
        },
    }


# ---------------------------------------------------------------------------------------------
# Report


def _sections(
    document: dict[str, Any], findings: Findings, pairs: Sequence[NearPair]
) -> list[Section]:
    sections = []
    if findings.faults:
        shown = findings.faults[:50]
        table = _FAULTS.render(faults=shown, more=len(findings.faults) - len(shown))
        sections.append(Section('Faults', Markup(table), 'Training would stop at these.'))
    if findings.warnings:
        items = Markup('').join(Markup('<li>{}</li>').format(text) for text in findings.warnings)
        sections.append(Section('Worth knowing', Markup('<ul>{}</ul>').format(items)))
    sections.append(_classes_section(document, findings.ontology))
    if findings.frames:
        sections.append(
            plots_section(
                'Where things are',
                [lambda: _draw_bands(findings)],
                'For each class, the share of its pixels at each height of the image. A class '
                'that is found where it cannot be (sky at the bottom) has wrong labels.',
            )
        )
    if document['depth'] is not None:
        sections.append(
            plots_section(
                'Depth',
                [lambda: _draw_depth(findings)],
                f'{document["depth"]["missing_share"]:.1%} of the pixels have no depth.',
            )
        )
    if pairs:
        sections.append(_pairs_section(document, findings, pairs))
    if findings.frames:
        sections.append(_frames_section(findings))
    sections.append(environment_section(document['environment']))
    return sections


def _classes_section(document: dict[str, Any], ontology: Ontology) -> Section:
    largest = max((row['share'] for row in document['classes']), default=0.0) or 1.0
    sides = list(document['sides'])
    rows = [
        {
            'id': row['id'],
            'name': row['name'],
            'color': '#{:02x}{:02x}{:02x}'.format(*ontology.classes[row['id']].color_rgb),
            'width': f'{100 * row["share"] / largest:.1f}',
            'share': f'{row["share"]:.2%}',
            'pixels': _megapixels(row['pixels']),
            'frames': f'{row["frames"]:,}',
            'by_side': [_megapixels(row['pixels_by_side'].get(side, 0)) for side in sides],
        }
        for row in document['classes']
    ]
    sizes = ', '.join(
        f'{size["frames"]} of {size["height"]} x {size["width"]}' for size in document['sizes']
    )
    table = Markup(_CLASSES.render(rows=rows, sides=sides))
    return Section('Classes', table, f'Frames by size (height x width): {sizes or "none"}.')


def _megapixels(pixels: int) -> str:
    return f'{pixels / 1e6:,.3f}'


def _draw_bands(findings: Findings) -> Figure:
    seen = np.flatnonzero(findings.bands.sum(axis=1))
    shares = findings.bands[seen] / findings.bands[seen].sum(axis=1, keepdims=True)
    figure = Figure(figsize=(2.4 + 0.34 * len(seen), 4.2), layout='constrained')
    axes = figure.add_subplot()
    axes.grid(visible=False)
    # Scaled to each class's fullest band, else a thin class would outshine all others.
    axes.imshow(
        (shares / shares.max(axis=1, keepdims=True)).T,
        cmap='YlOrBr',
        aspect='auto',
        extent=(-0.5, len(seen) - 0.5, 1.0, 0.0),
    )
    names = [findings.ontology.names[k] for k in seen]
    axes.set_xticks(range(len(seen)), names, rotation=45, ha='right')
    axes.set_ylabel('height in the image (0 top, 1 bottom)')
    return figure


def _draw_depth(findings: Findings) -> Figure:
    figure = Figure(figsize=(5.6, 3.1), layout='constrained')
    axes = figure.add_subplot()
    last = int(np.flatnonzero(findings.depth_histogram).max(initial=1))
    edges = _DEPTH_BIN_M * np.arange(last + 2)
    counts = findings.depth_histogram[: last + 1] / max(int(findings.depth_histogram.sum()), 1)
    axes.stairs(counts, edges, fill=True, color='#d9a679')
    axes.set_xlabel('depth [m]')
    axes.set_ylabel('share of measured pixels')
    return figure


def _pairs_section(
    document: dict[str, Any], findings: Findings, pairs: Sequence[NearPair]
) -> Section:
    rows = []
    for pair, found in zip(pairs, document['near_duplicates']['pairs'], strict=True):
        pictures = [_fit(findings.frames[k].read_rgb()) for k in (pair.first, pair.second)]
        caption = (
            f'{found["first_side"]} {found["first"]}, {found["second_side"]} {found["second"]}: '
            f'{found["distance"]:.0%} of the bits differ'
        )
        rows.append((caption, pictures))
        if len(rows) == _SHOWN_PAIRS:
            break
    return frames_section(
        'Alike on both sides of the split',
        ('one side', 'other side'),
        rows,
        findings.ontology,
        f'The {len(rows)} nearest of {len(pairs)} pairs; audit.json lists all.',
    )


def _frames_section(findings: Findings) -> Section:
    pixels = np.array(findings.pixels)
    # The frame that shows most of each class, then evenly spaced ones.
    best = [int(column.argmax()) for column in pixels.T if column.any()]
    evenly = np.linspace(0, len(findings.frames) - 1, _SHOWN_FRAMES).astype(int).tolist()
    chosen = list(dict.fromkeys(best + evenly))[:_SHOWN_FRAMES]
    rows = []
    for position in sorted(chosen):
        frame = findings.frames[position]
        rgb, labels = frame.read_rgb(), frame.read_labels(findings.ontology)
        pictures = [_fit(rgb), _fit(overlay(rgb, labels, findings.ontology, 0.55))]
        if frame.has_depth:
            pictures.append(_fit(_depth_picture(frame.read_depth())))
        rows.append((frame.name, pictures))
    columns = ('image', 'labels', 'depth, near is bright')
    widest = max(len(pictures) for _, pictures in rows)
    rows = [(name, pictures) for name, pictures in rows if len(pictures) == widest]
    return frames_section(
        'Contact sheet',
        columns[:widest],
        rows,
        findings.ontology,
        'For each class the frame that shows most of it, and frames evenly spaced over the set. '
        'Pixels without label show the image, pixels without depth are black.',
    )


def _fit(rgb: UInt8Array) -> UInt8Array:
    size = (_TILE_PX, max(1, round(_TILE_PX * rgb.shape[0] / rgb.shape[1])))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _depth_picture(depth_m: npt.NDArray[np.float32]) -> UInt8Array:
    measured = depth_m > 0
    if not measured.any():
        return np.zeros((*depth_m.shape, 3), np.uint8)
    inverse = 1.0 / np.where(measured, depth_m, 1.0)
    low, high = np.percentile(inverse[measured], (1, 99))
    gray = np.clip((inverse - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    colored = np.asarray(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)
    return np.where(measured[..., None], colored, np.uint8(0))


def _headline(document: dict[str, Any]) -> list[Fact]:
    unlabelled = document['unlabelled_share']
    present = sum(row['pixels'] > 0 for row in document['classes'])
    sides = ', '.join(f'{frames} {side}' for side, frames in document['sides'].items())
    return [
        Fact('faults', str(len(document['faults']))),
        Fact('frames', f'{document["frames"]:,}', sides),
        Fact('groups', f'{document["groups"]:,}', 'sequences or blocks'),
        Fact('classes', f'{present} of {len(document["classes"])}', 'with a pixel'),
        Fact('unlabelled', '-' if unlabelled is None else f'{unlabelled:.1%}', 'of the pixels'),
        Fact('alike', str(len(document['near_duplicates']['pairs'])), 'pairs across the split'),
    ]


# ---------------------------------------------------------------------------------------------
# Command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.audit',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    layouts = get_args(DatasetName)
    parser.add_argument('--dataset', required=True, choices=layouts, help='layout of the set')
    parser.add_argument('--root', required=True, help='its folder, as in data.train of a recipe')
    parser.add_argument('--ontology', required=True, help='name or YAML file of the class table')
    parser.add_argument('--out', required=True, type=Path, help=f'folder for {REPORT} and {JSON}')
    split = parser.add_argument_group('the split that is checked, as in data.split of a recipe')
    split.add_argument('--by', choices=('official', 'groups', 'folds'), default='groups')
    split.add_argument('--block-frames', type=int, default=16, help='default: %(default)s')
    split.add_argument('--val-every-groups', type=int, default=6, help='default: %(default)s')
    split.add_argument('--folds', type=int, default=5, help='default: %(default)s')
    split.add_argument('--fold', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--force', action='store_true', help='replace an earlier audit in --out')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 clean, 1 faults, 2 nothing could be checked."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        split = SplitSection(
            by=arguments.by,
            block_frames=arguments.block_frames,
            val_every_groups=arguments.val_every_groups,
            folds=arguments.folds,
            fold=arguments.fold,
        )
    except ValueError as err:
        parser.error(str(err))
    try:
        ontology = load_ontology(arguments.ontology)
        with output_folder(arguments.out, (REPORT, JSON), replace=arguments.force) as new:
            found = audit(arguments.dataset, arguments.root, split, ontology)
            document = found['document']
            write_json(new / JSON, document)
            write_report(
                new / REPORT,
                f'Audit of {arguments.dataset}',
                [arguments.root, f'{ontology.name}, split by {split.by}'],
                _headline(document),
                found['sections'],
            )
    except (DatasetError, OntologyError, FileNotFoundError, FileExistsError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    print_findings(document)
    print(arguments.out / REPORT)
    return 1 if document['faults'] else 0


def print_findings(document: dict[str, Any]) -> None:
    """Print the class histogram, then what is wrong."""
    for row in document['classes']:
        print(
            f'{row["id"]:3d}  {row["name"]:32s} {row["share"]:8.3%}  {row["frames"]:>7,d} frames  '
            f'{json.dumps(row["pixels_by_side"])}'
        )
    sides = ', '.join(f'{frames} {side}' for side, frames in document['sides'].items())
    print(f'{document["frames"]} frames ({sides}) in {document["groups"]} groups')
    for text in document['warnings']:
        print(f'note: {text}')
    for fault in document['faults'][:20]:
        print(f'fault: {fault["kind"]}: {fault["text"]}')
    if len(document['faults']) > 20:
        print(f'fault: and {len(document["faults"]) - 20} more, in {JSON}')


if __name__ == '__main__':
    sys.exit(main())
