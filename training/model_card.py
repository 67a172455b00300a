"""Command: write a bundle's model card from what the bundle says about itself."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.model.files import check_writable
from desertmind_seg.options import ALL_DONE, command_parser, run_command

_EXAMPLES = """\
examples:
  python -m training.model_card models/ycor8_rgb.onnx --out models/ycor8_rgb.md
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'training.model_card', "Write a bundle's model card: its own figures.", _EXAMPLES
    )
    parser.add_argument('bundle', metavar='BUNDLE', type=Path)
    parser.add_argument(
        '--out', metavar='FILE', type=Path, required=True, help='the Markdown file'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    check_writable(options.out, [options.bundle])

    from training.bundles.card import write_model_card

    write_model_card(options.bundle, options.out)
    print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
