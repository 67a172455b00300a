"""What geometry changes, as parts of a page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.evaluation.sections import shown
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.charts import Chart, charts_section
from desertmind_seg.reports.page import Fact, Section
from desertmind_seg.reports.pictures import frames_section
from desertmind_seg.reports.tables import pairs_section, table_section
from desertmind_seg.scores.comparison import few_blocks_note
from desertmind_seg.scores.confusion import BAND_NAMES, BAND_PLACES_M
from desertmind_seg.scores.hazard_records import HazardMetrics, HazardScores, WitnessRate
from desertmind_seg.scores.hazards import SIZE_PLACES_M

_SORTED_BY = {'class': 'class ', 'near class': 'class ', 'kind': 'kind ', 'size': 'size '}


def hazard_facts(hazards: HazardMetrics | None) -> list[Fact]:
    """Return the headline's part on geometry, or nothing without a depth topic."""
    if hazards is None:
        return []
    if hazards.problem:
        return [Fact('hazards', 'not scored', 'the part on geometry says why')]
    facts = [
        Fact('false safe', _from_to(of), f'{of.name}: by class alone, then with geometry')
        for of in (hazards.scores.false_safe if hazards.scores else ())
        if of.by in ('all', 'near', 'target')
    ]
    if hazards.scores is not None:
        return [
            *facts,
            *(
                Fact(
                    'false alarms',
                    shown(of.share, '.1%'),
                    f'by geometry, of traversable ground {of.name}',
                )
                for of in hazards.scores.false_alarms
                if of.name not in BAND_NAMES
            ),
        ]
    share = sum(hazards.hazard_shares.values()) if hazards.hazard_shares else None
    known = shown(hazards.known_share, '.1%')
    contradicted = shown(hazards.disagreement.safe_but_hazard, '.2%')
    return [
        Fact('hazards', shown(share, '.2%'), f'of the {known} of the pixels that geometry knows'),
        Fact('contradicted', contradicted, 'of them: class traversable, geometry sees a hazard'),
    ]


def _from_to(of: WitnessRate) -> str:
    return f'{shown(of.class_alone, ".1%")} to {shown(of.with_geometry, ".1%")}'


def hazard_sections(hazards: HazardMetrics | None) -> list[Section]:
    """Return the report's part on geometry, or nothing without a depth topic."""
    if hazards is None:
        return []
    if hazards.problem:
        return [Section('Hazards from geometry', Markup(''), f'Not scored: {hazards.problem}')]
    scores = hazards.scores
    return [
        *([] if scores is None else _score_sections(scores)),
        *_height_sections(hazards),
        _source_section(hazards),
    ]


def _score_sections(scores: HazardScores) -> list[Section]:
    note = (
        'False safe: share of obstacle and non-traversable pixels that are called safe, the '
        'dangerous error. By class alone a pixel is called safe where its class is traversable; '
        'with geometry only where, besides, the depth shows no hazard: nothing that sticks out of '
        'the ground, falls off below it or is too steep. What is flat, such as a puddle, geometry '
        'cannot see. '
        + '. '.join(scores.sentences)
        + f'. Intervals are paired, by bootstrap over blocks of {scores.block_frames} labelled '
        'frames in a row.'
    )
    note += few_blocks_note(scores.blocks, scores.block_frames)
    alarms = [
        ('distance', 'false alarms', 'unknown', 'pixels'),
        *(
            (of.name, shown(of.share, '.2%'), shown(of.unknown_share, '.1%'), f'{of.pixels:,}')
            for of in scores.false_alarms
        ),
    ]
    return [
        table_section('With and without geometry: false safe', _rows(scores.false_safe), note),
        *_curve_sections(scores.false_safe),
        table_section(
            'With and without geometry: false stop',
            _rows(scores.false_stop),
            'False stop: share of traversable pixels that are called unsafe. Geometry can only '
            'add to it: this is what the safety costs.',
        ),
        table_section(
            'False alarms of geometry',
            alarms,
            'Share of the pixels labelled traversable and with depth that geometry alone calls a '
            'hazard, and of which it knows nothing: there the class decides.',
        ),
    ]


def _curve_sections(rates: Sequence[WitnessRate]) -> list[Section]:
    """Draw false safe over the size of the hazards, and over their distance."""
    charts = []
    for by, label, place in (
        ('size', 'height or depth of the hazard [m]', SIZE_PLACES_M),
        ('distance', 'distance [m]', BAND_PLACES_M),
    ):
        rows = [(place[each.name], each) for each in rates if each.by == by and each.name in place]
        x = [at for at, _ in rows]
        lines = {
            'class alone': (x, [100 * (each.class_alone or 0.0) for _, each in rows]),
            'with geometry': (x, [100 * (each.with_geometry or 0.0) for _, each in rows]),
        }
        if len(rows) > 1:
            charts.append(Chart(label, 'false safe [%]', lines))
    return [charts_section('False safe over size and distance', charts)] if charts else []


def _rows(rates: Sequence[WitnessRate]) -> list[Sequence[str]]:
    header = ('pixels', 'class alone', 'with geometry', 'difference', '95 %', 'real', 'number')
    return [
        header,
        *(
            (
                _SORTED_BY.get(of.by, '') + of.name,
                shown(of.class_alone, '.2%'),
                shown(of.with_geometry, '.2%'),
                shown(of.difference, '+.2%'),
                '-'
                if of.interval_95 is None
                else f'{of.interval_95[0]:+.2%} to {of.interval_95[1]:+.2%}',
                'yes' if of.is_real else 'no',
                f'{of.pixels:,}',
            )
            for of in rates
        ),
    ]


def _height_sections(hazards: HazardMetrics) -> list[Section]:
    if hazards.height_errors is None:
        return []
    rows = [
        ('distance', 'mean', 'root mean square', '95 % within', 'pixels'),
        *(
            (
                of.name,
                shown(of.mean_m, '+.3f', ' m'),
                shown(of.rms_m, '.3f', ' m'),
                shown(of.p95_m, '.2f', ' m'),
                f'{of.pixels:,}',
            )
            for of in hazards.height_errors
        ),
    ]
    note = 'Height above the ground, found minus true, of the pixels that have both.'
    return [table_section('Error of the height', rows, note)]


def _source_section(hazards: HazardMetrics) -> Section:
    shares = ', '.join(f'{share:.2%} {name}' for name, share in hazards.hazard_shares.items())
    disagreement = hazards.disagreement
    rows = {
        'camera_info': hazards.camera_info,
        'up': hazards.gravity,
        'settings': ', '.join(f'{name} {value:g}' for name, value in hazards.settings.items()),
        'frames judged': hazards.frames,
        'frames of which nothing is known': hazards.frames_unknown,
        'frames whose up is guessed': hazards.frames_up_from_data,
        'pixels that geometry knows': shown(hazards.known_share, '.1%'),
        'hazards among them': shares or 'none',
        'class traversable, geometry sees a hazard': shown(disagreement.safe_but_hazard, '.2%'),
        'class obstacle or non-traversable, geometry sees free ground': shown(
            disagreement.unsafe_but_free, '.2%'
        ),
        'ground, off the fitted surface': shown(hazards.residual_m, '.3f', ' m (median)'),
        **{f'problem, {entry.count} times': entry.error for entry in hazards.problems},
    }
    note = 'What geometry says of the frames with depth, whatever the labels are.'
    return pairs_section('Geometry', rows, note)


def picture_sections(pictures: HazardPictures, start_ns: int, ontology: Ontology) -> list[Section]:
    """Return the report's pictures of what geometry found, or nothing where it found nothing."""
    chosen = pictures.chosen()
    if not chosen:
        return []
    rows = [
        (
            f'{(each.log_time_ns - start_ns) / 1e9:.1f} s into the drive: '
            + ', '.join(f'{count:,} px {mark}' for mark, count in each.pixels.items()),
            each.panels,
        )
        for each in chosen
    ]
    if pictures.labelled:
        note = (
            'The frames in which geometry caught most, and in which it raised most false alarms. '
            'Caught: a hazard that the class calls traversable, seen by geometry. Missed: called '
            'traversable by the class, and not seen.'
        )
    else:
        note = 'The frames with most hazards of each kind; without labels nobody knows if rightly.'
    columns = ('camera frame', 'class mask', 'geometry')
    return [frames_section('What geometry found', columns, rows, ontology, note, pictures.colors)]
