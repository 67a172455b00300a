"""report.html of an evaluation: what metrics.json says, as one page."""

from pathlib import Path

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.charts import Chart, charts_section, confusion_section
from desertmind_seg.reports.distributions import reliability_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import classes_section, environment_section, table_section
from training.evaluation.metrics_file import DepthCurve, Metrics
from training.evaluation.text import figure, interval

REPORT_FILE = 'report.html'


def write_evaluation_report(path: Path, metrics: Metrics, ontology: Ontology) -> None:
    """Write the page of what `training.evaluation.run.evaluate` found."""
    document = metrics.model_dump(include={'classes', 'confusion', 'reliability'})
    write_report(
        path,
        str(metrics.model),
        [scored_on(metrics)],
        headline(metrics),
        [
            *([] if metrics.depth_curve is None else depth_sections(metrics.depth_curve)),
            classes_section(document, ontology),
            confusion_section(document, ontology),
            reliability_section(document, 'Accuracy of the pixels of each confidence.'),
            environment_section(metrics.environment),
        ],
    )


def scored_on(metrics: Metrics) -> str:
    """Say which frames the scores are of."""
    return (
        f'{metrics.dataset} {metrics.split}: {metrics.frames} frames in {metrics.blocks} blocks; '
        f'{metrics.split_rule}'
    )


def headline(metrics: Metrics, parent: Metrics | None = None) -> list[Fact]:
    """Return the scores of the whole split, with their intervals and those of the parent's run."""

    def fact(label: str, name: str) -> Fact:
        score = getattr(metrics, name)
        notes = []
        bounds = getattr(metrics, f'{name}_interval_95', None)
        if bounds is not None:
            notes.append(f'95 %: {interval(bounds, ".3f")}')
        before = getattr(parent, name, None)
        if before is not None and score is not None:
            notes.append(f'parent {figure(before)}')
        return Fact(label, figure(score), '; '.join(notes))

    return [
        fact('mIoU (all)', 'miou_all'),
        fact('mIoU (present)', 'miou_present'),
        fact('pixel accuracy', 'pixel_accuracy'),
        fact('boundary F1', 'boundary_f1'),
        fact('calibration error', 'ece'),
        fact('false safe', 'false_safe_rate'),
    ]


def depth_sections(curve: DepthCurve) -> list[Section]:
    """Plot and list the scores against the share of valid depth."""
    shares = [100.0 * point.valid_share for point in curve.points]
    lines = {'mIoU (all)': (shares, [point.miou_all for point in curve.points])}
    bounds = [point.miou_all_interval_95 for point in curve.points]
    known = [bound for bound in bounds if bound is not None]
    if len(known) == len(bounds):
        lines['95 %, lower'] = (shares, [low for low, _ in known])
        lines['95 %, upper'] = (shares, [high for _, high in known])
    charts = [
        Chart(
            'pixels with depth, %',
            'mIoU (all)',
            lines,
            {'95 %, lower': '--fill', '95 %, upper': '--fill'},
        )
    ]
    rates = [point.false_safe_rate for point in curve.points if point.false_safe_rate is not None]
    if len(rates) == len(curve.points):
        charts.append(Chart('pixels with depth, %', 'false safe', {'false safe': (shares, rates)}))
    header = [
        'depth kept',
        'pixels with depth',
        'mIoU (all)',
        'against none',
        '95 %',
        'false safe',
    ]
    rows = [
        [
            f'{point.kept_share:.0%}',
            f'{point.valid_share:.1%}',
            figure(point.miou_all),
            f'{point.against_none:+.4f}',
            interval(point.against_none_interval_95, '+.4f'),
            figure(point.false_safe_rate),
        ]
        for point in curve.points
    ]
    return [
        charts_section(
            'Depth',
            charts,
            f'{curve.dataset}, {curve.frames} frames in {curve.blocks} blocks. Of the depth that '
            'was measured a part is kept; patches and what is far go first. The intervals are '
            'over blocks; what depth adds is paired, in the table.',
        ),
        table_section('Depth, in figures', [header, *rows]),
    ]
