"""Command: write the parameters of Nav2's semantic segmentation layer for a class table.

The layer (kiwicampus/semantic_segmentation_layer) knows classes by their names and logs an error
for each name in ~/label_info that its parameters lack; so the names are never typed by hand.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import ALL_DONE, command_parser, run_command

_EXAMPLES = """\
examples:
  the file that the package ships, for the bundle that it ships
    python -m desertmind_seg.nav2_config --ontology ycor-8 > config/nav2.yaml
  for a bundle of your own, whose node runs in the namespace /front
    python -m desertmind_seg.nav2_config --bundle mine.onnx --node /front/segmentation > nav2.yaml
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.nav2_config',
        "Write the parameters of Nav2's semantic segmentation layer to stdout.",
        _EXAMPLES,
    )
    table = parser.add_mutually_exclusive_group(required=True)
    table.add_argument('--ontology', help='name of a shipped class table, or path of a .yaml file')
    table.add_argument(
        '--bundle', metavar='FILE', type=Path, help='take the class table of this bundle'
    )
    parser.add_argument(
        '--node',
        default='/segmentation',
        help='the segmentation node with its namespace (default: %(default)s)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.geometry.nav2_layer import nav2_yaml
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.model.ontology import load_ontology

    if options.bundle:
        ontology = read_bundle(options.bundle).metadata.ontology
    else:
        ontology = load_ontology(options.ontology)
    print(nav2_yaml(ontology, options.node.rstrip('/')), end='')
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
