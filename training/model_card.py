"""Write a bundle's model card from what the bundle says about itself.

Example:
  python -m training.model_card models/ycor8_rgb.onnx --out models/ycor8_rgb.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.files import whole_file
from training.bundles.card import model_card


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.model_card',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bundle', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='the Markdown file')
    arguments = parser.parse_args(argv)
    try:
        card = model_card(read_bundle(arguments.bundle))
    except (FileNotFoundError, BundleError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    with whole_file(arguments.out) as temporary:
        temporary.write_text(card, encoding='utf-8')
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
