"""The model card of a bundle."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
import yaml

from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.files import made_folder, write_text
from desertmind_seg.model.graph import graph_sha256
from training.evaluation.metrics_file import CHECKPOINT
from training.recipes.load import RECIPES, load_recipe, parse_recipe
from training.recipes.schema import Recipe, SplitSection

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).resolve().parent),
    undefined=StrictUndefined,
    autoescape=False,
)


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
    return _ENVIRONMENT.get_template('card.md.j2').render(
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
