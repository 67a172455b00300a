"""report.html of an evaluation: what metrics.json says, as one page."""

from pathlib import Path

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.charts import (
    Chart,
    charts_section,
    confusion_section,
    reliability_section,
)
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import classes_section, environment_section, table_section
from training.evaluation.metrics_file import DepthCurve, read_metrics

REPORT_FILE = 'report.html'


def write_evaluation_report(out: Path, ontology: Ontology) -> Path:
    """Write report.html beside the metrics.json of `training.evaluate` and return its path.

    Raises:
        FileNotFoundError: there is no metrics.json.
    """
    metrics = read_metrics(out)
    document = metrics.model_dump()
    interval = metrics.miou_all_interval_95
    sections = [
        *([] if metrics.depth_curve is None else depth_sections(metrics.depth_curve)),
        classes_section(document, ontology),
        confusion_section(document, ontology),
        reliability_section(document, 'Accuracy of the pixels of each confidence.'),
        environment_section(metrics.environment),
    ]
    write_report(
        out / REPORT_FILE,
        str(metrics.model),
        [
            f'{metrics.dataset} {metrics.split}: {metrics.frames} frames in {metrics.blocks} '
            f'blocks; {metrics.split_rule}'
        ],
        [
            Fact(
                'mIoU (all)',
                f'{metrics.miou_all:.4f}',
                '' if interval is None else f'95 %: {interval[0]:.3f} to {interval[1]:.3f}',
            ),
            Fact('pixel accuracy', _figure(metrics.pixel_accuracy)),
            Fact('boundary F1', _figure(metrics.boundary_f1)),
            Fact('calibration error', _figure(metrics.ece)),
            Fact('false safe', _figure(metrics.false_safe_rate)),
        ],
        sections,
    )
    return out / REPORT_FILE


def depth_sections(curve: DepthCurve) -> list[Section]:
    """Plot and list the scores against the share of valid depth."""
    shares = [100.0 * point.valid_share for point in curve.points]
    lines = {'mIoU (all)': (shares, [point.miou_all for point in curve.points])}
    bounds = [point.miou_all_interval_95 for point in curve.points]
    whole = [bound for bound in bounds if bound is not None]
    if len(whole) == len(bounds):
        lines['95 %, lower'] = (shares, [low for low, _ in whole])
        lines['95 %, upper'] = (shares, [high for _, high in whole])
    unsafe = [point.false_safe_rate for point in curve.points]
    charts = [
        Chart(
            'pixels with depth, %',
            'mIoU (all)',
            lines,
            {'95 %, lower': '#d9a679', '95 %, upper': '#d9a679'},
        )
    ]
    rates = [rate for rate in unsafe if rate is not None]
    if len(rates) == len(unsafe):
        charts.append(Chart('pixels with depth, %', 'false safe', {'false safe': (shares, rates)}))
    return [
        charts_section(
            'Depth',
            charts,
            f'{curve.dataset}, {curve.frames} frames in {curve.blocks} blocks. Of the depth that '
            'was measured a part is kept; patches and what is far go first. The intervals are '
            'over blocks; what depth adds is paired, in the table.',
        ),
        table_section(
            'Depth, in figures',
            [
                [
                    'depth kept',
                    'pixels with depth',
                    'mIoU (all)',
                    'against none',
                    '95 %',
                    'false safe',
                ],
                *(
                    [
                        f'{point.kept_share:.0%}',
                        f'{point.valid_share:.1%}',
                        f'{point.miou_all:.4f}',
                        f'{point.against_none:+.4f}',
                        '-'
                        if point.against_none_interval_95 is None
                        else '{:+.4f} to {:+.4f}'.format(*point.against_none_interval_95),
                        _figure(point.false_safe_rate),
                    ]
                    for point in curve.points
                ),
            ],
        ),
    ]


def _figure(score: float | None) -> str:
    return '-' if score is None else f'{score:.4f}'
