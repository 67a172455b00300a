"""Write a bundle's model card from what the bundle says about itself.

Example:
  python -m training.model_card models/ycor8_rgb.onnx --out models/ycor8_rgb.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from jinja2 import Environment, StrictUndefined
import yaml

from desertmind_seg.bundle import Bundle, BundleError, read_bundle
from desertmind_seg.share import whole_file

_TEMPLATE = """\
# {{ m.name }}

{{ m.recipe.model.architecture }} with encoder {{ m.recipe.model.encoder }}, {{ m.modality }},
{{ m.ontology.name }}, {{ m.precision }}, network size
{{ m.network_size_hw[0] }}x{{ m.network_size_hw[1] }} (height x width),
{{ '%.1f' % megabytes }} MB. Written by `python -m training.model_card` from the bundle's metadata.

**Use**: research only. {% for data in m.datasets %}{{ data.name }}: {{ data.licence }}.
{% endfor %}
## Data

| data set | frames |
|---|---:|
{% for data in m.datasets -%}
| {{ data.name }} (training) | {{ data.frames }} |
{% endfor -%}
| ycor (validation) | {{ m.scores.frames }} |

YCOR's official training frames are cut by frame number into blocks of
{{ m.recipe.data.block_frames }}; every {{ m.recipe.data.val_every_blocks }}th block validates
({{ m.scores.blocks }} blocks), the others train. Only the first and last frame of a block have a
neighbour on the other side, but blocks of one drive stand on both: another place will score lower.

## Scores on the validation blocks

One confusion matrix at the frames' own resolution, torch fp32, single scale.

| id | class | IoU | labelled pixels |
|---:|---|---:|---:|
{% for row in m.scores.classes -%}
| {{ row.id }} | {{ row.name }} | \
{{ '-' if row.iou is none else '%.4f' % row.iou }} | {{ row.pixels }} |
{% endfor %}
- mIoU over all {{ m.scores.classes | length }} classes: **{{ '%.4f' % m.scores.miou_all }}**, \
95 % bootstrap interval over blocks \
{{ '%.4f' % m.scores.miou_all_interval_95[0] }} to {{ '%.4f' % m.scores.miou_all_interval_95[1] }}.
- Pixel accuracy: {{ '%.4f' % m.scores.pixel_accuracy }}.
- Calibration: class biases fitted on training frames; softmax temperature \
{{ '%.3f' % m.temperature }}, fitted on the
  same validation blocks (one number); expected calibration error \
{{ '%.4f' % m.scores.ece }} in 15 bins.

No epoch was picked by its score. {% if m.scores.averaged_with -%}
The weights are the mean of this stage's and of
{{ m.scores.averaged_with }}'s; that, and the network size, were chosen on these
blocks, so the score is a little too kind.{% endif %}

## Parity gate

{{ m.parity.frames }} validation frames at {{ m.parity.pixel_agreement_by_size | join(', ') }}
against {{ m.parity.reference }}: {{ '%.4f' % (100 * m.parity.pixel_agreement) }} % of pixels
agree; the confidence differs by at most {{ '%.4f' % m.parity.confidence_max_difference }}.

## Training

{{ '%.0f' % (m.scores.training_sec / 60) }} minutes for the last stage on {{
  machine.gpu or machine.cpu }}\
 ({{ machine.cpus }} CPUs), seed {{ m.seed }},
commit {{ m.git_hash }}, data hash `{{ m.data_hash[:16] }}`.

```sh
{% if m.recipe.data.train | selectattr('dataset', 'equalto', 'synthetic') | list -%}
python -m training.synthetic --folder out/synthetic --seeds 100:140 --frames 6 --rate-hz 1 --jobs 2
{% endif -%}
{% if m.recipe.model.initial_checkpoint != 'none' -%}
python -m training.train training/recipes/{{ stage }}.yaml --out out/{{ stage }}
{% endif -%}
python -m training.train training/recipes/{{ m.recipe.name }}.yaml --out out/{{ m.recipe.name }}
{% if m.scores.averaged_with -%}
python -m training.calibrate out/{{ m.recipe.name }}/checkpoint.pt \\
    --average-with out/{{ m.scores.averaged_with }}/checkpoint.pt \\
    --network-size {{ m.network_size_hw | join('x') }} --out out/{{ m.recipe.name }}/averaged.pt
{% endif -%}
python -m training.export \
out/{{ m.recipe.name }}/{{ 'averaged' if m.scores.averaged_with else 'checkpoint' }}.pt \\
    --frames ../shared/data/ycor --out models/{{ m.name }}.onnx
python -m training.model_card models/{{ m.name }}.onnx --out models/{{ m.name }}.md
```

```yaml
{{ recipe_yaml }}```
"""


def model_card(bundle: Bundle) -> str:
    """Return the card as Markdown; every figure in it is the bundle's own."""
    metadata = bundle.metadata
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    stage = Path(metadata.recipe['model']['initial_checkpoint']).parent.name
    return environment.from_string(_TEMPLATE).render(
        m=metadata.model_dump(mode='json'),
        megabytes=bundle.path.stat().st_size / 1e6,
        machine=metadata.scores['environment']['machine'],
        stage=stage,
        recipe_yaml=yaml.safe_dump(metadata.recipe, sort_keys=False),
    )


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
