"""The model card of a bundle."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined
import yaml

from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.files import made_folder, write_text
from desertmind_seg.model.graph import graph_sha256
from training.networks.checkpoint import CHECKPOINT
from training.recipes.load import RECIPES, load_recipe, parse_recipe
from training.recipes.schema import Recipe, SplitSection

_TEMPLATE = """\
# {{ m.name }}

{{ model.architecture }} with encoder {{ model.encoder }}, {{ m.modality }}, {{ m.ontology.name }},
{{ m.precision }}, network size {{ m.network_size_hw | join('x') }} (height x width),
{{ '%.1f' % megabytes }} MB. Written by `python -m training.model_card` from the bundle's metadata.
SHA-256 of graph and weights, in the bundle too and checked whenever it is loaded:
`{{ graph_sha256 }}`.
{% if m.depth_range_m %}
Takes depth in metres too, registered to the image: {{ m.depth_range_m | join(' to ') }} m, what is
nearer or farther counts as the limit; 0 or NaN is a pixel without depth.
{% endif %}
**Use**: as the licences of its data allow. \
{% for data in m.datasets %}{{ data.name }}: {{ data.licence }}.
{% endfor %}
## Data

| data set | frames |
|---|---:|
{% for data in m.datasets -%}
| {{ data.name }} (training) | {{ data.frames }} |
{% endfor -%}
| {{ validation }} (validation) | {{ scores.frames }} |

{{ split }}

## Scores on the validation frames

One confusion matrix at the frames' own resolution, torch fp32, single scale.

| id | class | IoU | labelled pixels |
|---:|---|---:|---:|
{% for row in scores.classes -%}
| {{ row.id }} | {{ row.name }} | \
{{ '-' if row.iou is none else '%.4f' % row.iou }} | {{ row.pixels }} |
{% endfor %}
- mIoU over all {{ scores.classes | length }} classes: **{{ '%.4f' % scores.miou_all }}**, \
{% if scores.miou_all_interval_95 -%}
95 % bootstrap interval over {{ scores.blocks }} blocks \
{{ '%.4f' % scores.miou_all_interval_95[0] }} to {{ '%.4f' % scores.miou_all_interval_95[1] }}.
{% else -%}
one block of frames, so no interval.
{% endif -%}
- Pixel accuracy: {{ '%.4f' % scores.pixel_accuracy }}.
{% if scores.false_safe_rate is not none -%}
- Obstacle and non-traversable pixels called traversable: {{ '%.4f' % scores.false_safe_rate }}.
{% endif -%}
- Calibration: {% if recipe.evaluation.refresh_batch_norm %}\
BatchNorm's statistics taken from whole training frames;
  {% endif -%}
{% if scores.class_bias %}class biases fitted on training frames; {% endif -%}
{% if added %}then, so that fewer hazards are missed,
  {% for name, bias in added.items() %}{{ '%+g' % bias }} for {{ name }}\
{{ ';' if loop.last else ',' }}
  {% endfor -%}
{% endif -%}
softmax temperature {{ '%.3f' % m.temperature }}, fitted on the
  same validation frames (one number); expected calibration error {{ '%.4f' % scores.ece }} \
in 15 bins.

{% if m.modality == 'rgbd' -%}
## Depth

{% if curve -%}
{{ curve.frames }} {{ curve.dataset }} frames that the network was not \
trained on, {{ curve.blocks }} drives or blocks.
Of the depth that was measured a part is kept; patches and what is far go first.

| depth kept | pixels with depth | mIoU | against no depth, paired | false safe |
|---:|---:|---:|---|---:|
{% for point in curve.points -%}
| {{ '%.0f' % (100 * point.kept_share) }} % | {{ '%.1f' % (100 * point.valid_share) }} % | \
{{ '%.4f' % point.miou_all }} | {{ '%+.4f' % point.against_none }}\
{% if point.against_none_interval_95 and point.kept_share > 0 %} \
[{{ '%+.4f' % point.against_none_interval_95[0] }}, \
{{ '%+.4f' % point.against_none_interval_95[1] }}]{% endif %} | \
{{ '-' if point.false_safe_rate is none else '%.4f' % point.false_safe_rate }} |
{% endfor %}
{%- if curve.dataset == 'synthetic' %}
**No real off-road depth with labels was at hand**: what depth is worth is measured on rendered
drives alone, and the real frames above are scored without any. On real frames with labels depth
was tried in NYUv2's rooms only, where no gain could be shown (docs/experiments.md, "Does depth
help indoors?").
{% endif -%}
{% else -%}
The scores by share of valid depth were not measured.
{% endif %}
{% endif -%}
{% if recipe.optim.keep == 'best' -%}
The kept epoch{% if best_epoch %} ({{ best_epoch }}){% endif %} had the best mIoU \
on these frames, so the score is a little too kind.
{%- else -%}
No epoch was picked by its score.
{%- endif %}
{%- if added %} What was added to the logits was chosen on these
frames and on rendered ones.
{%- endif %}
{%- if averaged %} The weights are the mean of this run's and of
{{ averaged | join(', ') }}'s; that
{%- if resized %}, and the network size, were {% else %} was {% endif -%}
chosen on these frames, so the score is a little too kind.
{%- endif %}

## Parity check

{{ m.parity.frames }} {{ m.parity.dataset }} frames at \
{{ m.parity.pixel_agreement_by_size | join(', ') }}
against {{ m.parity.reference }}: {{ '%.4f' % (100 * m.parity.pixel_agreement) }} % of pixels
agree; the confidence differs by at most {{ '%.4f' % m.parity.confidence_max_difference }}.
{%- if m.parity.miou_difference is not none %}
mIoU against the labels of these frames: {% for size, miou in m.parity.miou_by_size.items() -%}
{{ '%.4f' % miou }} (torch {{ '%.4f' % m.parity.miou_torch_by_size[size] }}) at {{ size }}\
{{ '.' if loop.last else ', ' }}{% endfor %}{% endif %}
{%- if m.quantization %}
Calibrated on {{ m.quantization.frames }} training frames ({{ m.quantization.calibration }}); \
{{ m.quantization.float32_layers | length }} of
{{ m.quantization.layers }} layers stayed float32.{% endif %}
{%- if m.parity.depth is defined %} Depth: {{ m.parity.depth }}.{% endif %}

## Training

{% if scores.training_sec is not none -%}
{{ '%.0f' % (scores.training_sec / 60) }} minutes for the last stage on \
{% endif -%}
{{ machine.gpu or machine.cpu }}
({{ machine.cpus }} CPUs), seed {{ m.seed }}, commit {{ m.git_hash }},
data hash `{{ m.data_hash[:16] }}`.

```sh
# Where the data are, and how synthetic ones are made, is at the head of the recipe's file.
{% if made_elsewhere -%}
# {{ made_elsewhere }} is \
{% if start == 'models' %}shipped{% else %}\
made by the commands at the head of recipes/{{ start }}.yaml{% endif %}.
{% endif -%}
{% for name, folder, seed in stages -%}
python -m training.train {{ name }} --out out/{{ folder }}{{ ' ' + seed if seed }}
{% endfor -%}
{% if exported != 'checkpoint' -%}
python -m training.calibrate out/{{ recipe.name }}/checkpoint.pt \\
    {% if averaged %}--average-with {{ averaged_from | join(' ') }} \\
    {% endif -%}
{% if added %}{{ add_bias }} \\
    {% endif -%}
{% if resized %}--network-size {{ m.network_size_hw | join('x') }} {% endif -%}
{% if curve %}--depth-curve {{ curve.dataset }} {{ curve.root }} {% endif -%}
--out out/{{ recipe.name }}/{{ exported }}.pt
{% endif -%}
python -m training.export \
out/{{ recipe.name }}/{{ exported }}.pt \
{% if m.precision != 'fp32' %}--precision {{ m.precision }} {% endif -%}
--out models/{{ m.name }}.onnx
python -m training.model_card models/{{ m.name }}.onnx --out models/{{ m.name }}.md
```

```yaml
{{ recipe_yaml }}```
"""


def write_model_card(bundle_path: Path, out: Path) -> None:
    """Write the card of a bundle file as Markdown."""
    card = model_card(read_bundle(bundle_path))
    with made_folder(out.parent):
        write_text(out, card)


def model_card(bundle: Bundle) -> str:
    """Return the card as Markdown; every figure in it is the bundle's own.

    Raises:
        RecipeError: the bundle's recipe is not one of `training.train`.
    """
    metadata = bundle.metadata
    recipe, scores = parse_recipe(metadata.recipe, str(bundle.path)), metadata.scores
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    averaged = [name for name in (scores['averaged_with'] or '').split(', ') if name]
    initial = Path(recipe.model.initial_checkpoint)
    # A run of its own leaves checkpoint.pt; what came after it has commands of its own.
    is_run = initial.name == CHECKPOINT
    earlier = [initial.parent.name] if is_run else []
    made_elsewhere = None if is_run or str(initial) == 'none' else str(initial)
    start = initial.parent.name
    curve, added = scores.get('depth_curve'), scores.get('added_bias', {})
    resized = _trained_at_another_size(recipe)
    steps = {'averaged': averaged, 'careful': added, 'scored': curve, 'resized': resized}
    return environment.from_string(_TEMPLATE).render(
        m=metadata.model_dump(mode='json'),
        recipe=recipe,
        model=recipe.model,
        scores=scores,
        best_epoch=scores.get('best_epoch'),  # of a checkpoint that was calibrated later None
        curve=curve,
        added=added,
        add_bias='--add-bias ' + ' '.join(f"'{name}={bias:g}'" for name, bias in added.items()),
        exported=next((name for name, done in steps.items() if done), 'checkpoint'),
        validation=' and '.join(section.dataset for section in recipe.data.val),
        split=_split_sentence(recipe.data.split),
        averaged=averaged,
        averaged_from=[_averaged_file(name, initial) for name in averaged],
        made_elsewhere=made_elsewhere,
        resized=resized,
        start=start,
        stages=[
            (stage.partition(' ')[0], _folder(stage), stage.partition(' ')[2])
            for stage in [
                *earlier,
                *(name for name in averaged if name != start and not name.endswith('.onnx')),
                recipe.name,
            ]
        ],
        megabytes=bundle.path.stat().st_size / 1e6,
        graph_sha256=graph_sha256(bundle.path.read_bytes()),
        machine=scores['environment']['machine'],
        recipe_yaml=yaml.safe_dump(metadata.recipe, sort_keys=False),
    )


def _averaged_file(name: str, initial: Path) -> str:
    """Return the file of an averaged stage: a bundle has its path, a recipe names a run."""
    if name.endswith('.onnx'):
        return name
    return str(initial) if name == initial.parent.name else f'out/{_folder(name)}/{CHECKPOINT}'


def _folder(stage: str) -> str:
    """Return the run's folder of NAME, or of 'NAME seed=N'."""
    return stage.replace(' seed=', '_seed_')


def _trained_at_another_size(recipe: Recipe) -> bool:
    """Return whether the recipe of this name is shipped, and has another network size."""
    path = RECIPES / f'{recipe.name}.yaml'
    if not path.is_file():
        return False
    return load_recipe(path).model.network_size_hw != recipe.model.network_size_hw


def _split_sentence(rule: SplitSection) -> str:
    if rule.by == 'official':
        return "The publisher's own split."
    if rule.by == 'folds':
        return (
            f'Fold {rule.fold} of {rule.folds} validates, the others train; a fold is made of '
            'whole sequences\nor blocks of frames.'
        )
    return (
        f'1 in {rule.val_every_groups} groups of frames validates, the others train; a group is a '
        f'sequence, or\na block of {rule.block_frames} consecutive frames where a set has no '
        'sequences. Blocks of one drive stand on\nboth sides: another place will score lower.'
    )
