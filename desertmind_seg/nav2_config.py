"""Command: write the parameters of Nav2's semantic segmentation layer for a class table.

The layer (kiwicampus/semantic_segmentation_layer) knows classes by their names and logs an error
for each name in ~/label_info that its parameters lack; so the names are never typed by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.geometry.nav2_layer import NODE, nav2_yaml
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.ontology import OntologyError, load_ontology

_EXAMPLES = """\
examples:
  the file that the package ships, for the bundle that it ships
    python -m desertmind_seg.nav2_config --ontology ycor-8 > config/nav2.yaml
  for a bundle of your own, whose node runs in the namespace /front
    python -m desertmind_seg.nav2_config --bundle mine.onnx --node /front/segmentation > nav2.yaml
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.nav2_config',
        description="Write the parameters of Nav2's semantic segmentation layer to stdout.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    table = parser.add_mutually_exclusive_group(required=True)
    table.add_argument('--ontology', help='name of a shipped class table, or path of a .yaml file')
    table.add_argument('--bundle', type=Path, help='take the class table of this bundle')
    parser.add_argument(
        '--node',
        default=NODE,
        help='the segmentation node with its namespace (default: %(default)s)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        if args.bundle:
            ontology = read_bundle(args.bundle).metadata.ontology
        else:
            ontology = load_ontology(args.ontology)
    except (BundleError, OntologyError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    print(nav2_yaml(ontology, args.node.rstrip('/')), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
