"""Audits a labelled set: reads every frame once, and writes what it found."""

from collections import Counter
from pathlib import Path
from typing import Any

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.page import write_report
from desertmind_seg.reports.provenance import environment
from training.data.datasets import split_frames
from training.data.layouts import read_layout
from training.inspection.near_duplicates import NEAR_BITS
from training.inspection.page import headline, page_sections
from training.inspection.result import (
    BANDS,
    AuditResult,
    class_rows,
    depth_document,
    judge_classes,
    judge_depth,
    judge_pairs,
    unlabelled_share,
)
from training.recipes.schema import SplitSection

REPORT, JSON = 'report.html', 'audit.json'


def audit_to_folder(
    dataset: str,
    root: str,
    split: SplitSection,
    ontology: Ontology,
    out: Path,
    *,
    replace: bool,
    stop: str | None = None,
) -> dict[str, Any]:
    """Check all frames of a set; write audit.json and report.html.

    Args:
        dataset: a DatasetName of the recipe.
        root: where it is, as in data.train of a recipe.
        split: the rule that deals its frames to training and validation.
        ontology: the class table of its labels.
        out: folder of the two files.
        replace: overwrite those of an earlier audit.
        stop: what a training stops at before it reads these frames, a fault.

    Returns:
        What audit.json holds; `faults` is empty for a set that can be trained on.

    Raises:
        DatasetError: there is nothing of this layout at the root.
        FileExistsError: `out` holds an audit and `replace` is False.
    """
    with output_folder(out, (REPORT, JSON), replace=replace) as new:
        listing = read_layout(dataset, root, ontology, split.block_frames)
        side_of = split_frames(listing.frames, split)
        result = AuditResult(ontology, warnings=list(listing.notes))
        if stop is not None:
            result.add_fault('finetune stops', stop)
        for text in listing.unpaired:
            result.add_fault('unpaired', text)
        for frame in Progress(listing.frames, desc='reading', unit='frame'):
            result.add(frame, side_of[frame.name])
        judge_pairs(result)
        judge_classes(result)
        judge_depth(result)
        document = {
            'dataset': dataset,
            'root': root,
            'ontology': {'name': ontology.name, 'sha256': ontology.sha256},
            'split': split.model_dump(mode='json'),
            'frames': len(listing.frames),
            'groups': len({frame.group for frame in listing.frames}),
            'sides': dict(Counter(side_of.values())),
            **_document(result),
            'environment': environment(),
        }
        write_json(new / JSON, document)
        write_report(
            new / REPORT,
            f'Audit of {dataset}',
            [root, f'{ontology.name}, split by {split.by}'],
            headline(document),
            page_sections(document, result),
        )
    return document


def _document(result: AuditResult) -> dict[str, Any]:
    return {
        'readable_frames': len(result.frames),
        'sizes': [
            {'height': height, 'width': width, 'frames': frames}
            for (height, width), frames in result.sizes.most_common()
        ],
        'unlabelled_share': unlabelled_share(result),
        'classes': class_rows(result),
        'vertical_prior': {
            'bands': BANDS,
            'share_by_class': {
                name: (row / max(row.sum(), 1)).round(5).tolist()
                for name, row in zip(result.ontology.names, result.bands, strict=True)
            },
        },
        'depth': depth_document(result),
        'near_duplicates': {
            'limit': NEAR_BITS,
            'count': result.alike.count,
            'pairs': [
                {
                    'first': result.frames[pair.first].name,
                    'first_side': result.sides[pair.first],
                    'second': result.frames[pair.second].name,
                    'second_side': result.sides[pair.second],
                    'distance': round(pair.distance, 4),
                }
                for pair in result.alike.nearest
            ],
        },
        'faults': result.faults,
        'warnings': result.warnings,
    }
