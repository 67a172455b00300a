"""Soft labels and their loss, by hand, and through the ordinary trainer."""

import csv
from pathlib import Path

from made_up_members import YCOR8, untrained_checkpoint
import numpy as np
import pytest
from tiny_model import DEPTH
import torch

from desertmind_seg.model.ontology import load_ontology
from training.ensembles.distillation import DistillationError, Teachers, distillation_loss
from training.fit.run import train
from training.networks.checkpoint import Checkpoint, save_checkpoint
from training.recipes.load import parse_recipe
from training.recipes.schema import Recipe


def test_the_loss_by_hand() -> None:
    # One pixel, two classes: odds of the teacher 4 to 1, of the student e^2 to 1; T = 2 makes
    # them 2 to 1 and e to 1.
    teacher = torch.tensor([0.8, 0.2]).reshape(1, 2, 1, 1)
    student = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1)
    p, q = np.array([2.0, 1.0]) / 3.0, np.array([np.e, 1.0]) / (np.e + 1.0)
    by_hand = 4.0 * (p * np.log(p / q)).sum()
    loss = distillation_loss(student, teacher, torch.zeros(1, 1, 1, dtype=torch.int64), 2.0)
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_for_one_teacher_the_softened_odds_are_those_of_its_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4.0 * torch.randn((2, 5, 6, 7), generator=generator)
    student = torch.randn((2, 5, 6, 7), generator=generator)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator)
    found = distillation_loss(student, logits.softmax(dim=1), labels, 3.0)
    independent = 9.0 * torch.nn.functional.kl_div(
        (student / 3.0).log_softmax(dim=1), (logits / 3.0).softmax(dim=1), reduction='none'
    ).sum(dim=1)
    assert float(found) == pytest.approx(float(independent.mean()), rel=1e-4)


def test_agreement_costs_nothing_and_pulls_nowhere() -> None:
    logits = torch.randn((1, 4, 3, 3), requires_grad=True)
    labels = torch.zeros((1, 3, 3), dtype=torch.int64)
    loss = distillation_loss(logits, logits.detach().softmax(dim=1), labels, 2.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_a_certain_teacher_and_a_sparse_batch_stay_finite() -> None:
    teacher = torch.zeros((1, 3, 2, 2))
    teacher[:, 1] = 1.0  # zeros as a float32 softmax gives them
    student = torch.full((1, 3, 2, 2), -80.0, requires_grad=True)
    labels = torch.full((1, 2, 2), 255)
    nothing = distillation_loss(student, teacher, labels, 1.0)
    nothing.backward()
    assert student.grad is not None
    assert (float(nothing.detach()), float(student.grad.abs().max())) == (0.0, 0.0)
    labels[0, 0, 1] = 1
    assert torch.isfinite(distillation_loss(student, teacher, labels, 0.5))


def test_unlabelled_pixels_do_not_teach() -> None:
    student = torch.randn((1, 3, 2, 2))
    teacher = torch.randn((1, 3, 2, 2)).softmax(dim=1)
    labels = torch.tensor([[[0, 255], [2, 255]]])
    loss = distillation_loss(student, teacher, labels, 1.0)
    left = distillation_loss(student[..., :1], teacher[..., :1], labels[..., :1], 1.0)
    assert float(loss) == pytest.approx(float(left))


def test_a_teacher_that_the_label_contradicts_is_silent_where_told() -> None:
    student = torch.randn((1, 3, 1, 4), requires_grad=True)
    teacher = torch.tensor([[0.7, 0.2, 0.1]] * 4).T.reshape(1, 3, 1, 4)
    labels = torch.tensor([[[0, 1, 2, 255]]])  # right, wrong, wrong, unlabelled
    loss = distillation_loss(student, teacher, labels, 2.0, only_where_right=True)
    right = distillation_loss(student[..., :1], teacher[..., :1], labels[..., :1], 2.0)
    torch.testing.assert_close(loss, right / 3)  # the mean is of all that are labelled
    loss.backward()
    assert student.grad is not None
    assert float(student.grad[..., 1:].abs().max()) == 0.0


def test_a_teacher_of_another_stride_is_resized() -> None:
    student = torch.randn((1, 3, 8, 8))
    labels = torch.zeros((1, 8, 8), dtype=torch.int64)
    flat = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1)
    small = distillation_loss(student, flat.expand(-1, -1, 2, 2), labels, 2.0)
    whole = distillation_loss(student, flat.expand(-1, -1, 8, 8), labels, 2.0)
    assert float(small) == pytest.approx(float(whole), rel=1e-6)


def test_teachers_are_averaged_and_do_not_learn(tiny_recipe: Recipe, tmp_path: Path) -> None:
    for seed in (1, 2):
        teacher = untrained_checkpoint(tiny_recipe, seed)
        save_checkpoint(teacher, tmp_path / f'run_{seed}/checkpoint.pt')
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    sources = [tmp_path / 'run_1', tmp_path / 'run_2/checkpoint.pt']  # a run, and a file
    alone = [Teachers([source], 'cpu', YCOR8).soft_labels({'image': image}) for source in sources]
    both = Teachers(sources, 'cpu', YCOR8).soft_labels({'image': image})
    assert both.shape == (2, 8, 16, 24)
    assert not both.requires_grad
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(both.sum(dim=1), torch.ones(2, 16, 24))
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    # Not in training mode: a batch's second frame does not change what is said of the first.
    first = Teachers(sources, 'cpu', YCOR8).soft_labels({'image': image[:1]})
    torch.testing.assert_close(first, both[:1], atol=1e-5, rtol=1e-4)


def test_a_teacher_of_another_class_table_is_refused_by_name(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={'name': 'desert_teacher'})
    teacher = untrained_checkpoint(recipe, 0, load_ontology('desert-10'))
    save_checkpoint(teacher, tmp_path / 'checkpoint.pt')
    with pytest.raises(
        DistillationError, match=r'\(desert_teacher\) was trained for desert-10 \(10 classes'
    ):
        Teachers([tmp_path], 'cpu', YCOR8)


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'No checkpoint at .*/checkpoint\.pt'):
        Teachers([tmp_path], 'cpu', YCOR8)
    with pytest.raises(FileNotFoundError, match='No checkpoint at'):
        Teachers([tmp_path / 'teacher.pt'], 'cpu', YCOR8)
    with pytest.raises(FileNotFoundError, match='No ensemble at'):
        Teachers([tmp_path / 'ensemble.json'], 'cpu', YCOR8)


def test_a_run_misses_its_teacher_before_it_reads_frames(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tree = tiny_recipe.model_dump(mode='json')
    tree['data']['train'][0]['root'] = tree['data']['val'][0]['root'] = '/nowhere'
    teacher = str(tmp_path / 'teacher.pt')
    tree['distillation'] = {'teachers': [teacher], 'weight': 1.0, 'temperature': 2.0}
    said = rf'distillation\.teachers {teacher}: there is no .*an ensemble\.json'
    with pytest.raises(FileNotFoundError, match=said):
        train(parse_recipe(tree, 'student'), tmp_path / 'out', accelerator='cpu')


def test_a_teacher_with_depth_wants_depth(tiny_recipe: Recipe, tmp_path: Path) -> None:
    tree = tiny_recipe.model_dump(mode='json')
    tree['model']['depth'] = DEPTH
    recipe = parse_recipe(tree, 'rgbd')
    save_checkpoint(untrained_checkpoint(recipe, 0), tmp_path / 'checkpoint.pt')
    teachers = Teachers([tmp_path], 'cpu', YCOR8)
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with pytest.raises(DistillationError, match='takes depth, but the batch has none'):
        teachers.soft_labels({'image': image})
    soft = teachers.soft_labels({'image': image, 'depth': torch.full((1, 1, 64, 96), 3.0)})
    assert soft.shape[:2] == (1, 8)


def test_a_student_comes_to_say_what_its_teacher_says(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Through the ordinary trainer, by the recipe's key alone."""
    tree = tiny_recipe.model_dump(mode='json')
    tree['distillation'] = {'teachers': [str(trained[1])], 'weight': 10.0, 'temperature': 2.0}
    optim = {'lr': 1e-2, 'schedule': 'constant', 'warmup': 0.0, 'ema_decay': 0.0}
    tree['optim'].update(optim, epochs=12, val_every_epochs=12)
    tree['augment'].update(crop=0.0, flip=0.0, photometric=0.0, blur=0.0)
    recipe = parse_recipe(tree, 'student')
    train(recipe, tmp_path, accelerator='cpu')
    rows = csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines())
    losses = [float(row['train_distillation']) for row in rows if row['train_distillation']]
    assert len(losses) == 24
    assert np.mean(losses[-3:]) < 0.1 * np.mean(losses[:3])


def test_a_recipe_silences_teachers_where_labels_contradict(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tree = tiny_recipe.model_dump(mode='json')
    tree['optim'].update(epochs=1, val_every_epochs=1)
    losses = []
    for silent in (False, True):
        tree['distillation'] = {
            **{'teachers': [str(trained[1])], 'weight': 1.0, 'temperature': 2.0},
            'only_where_right': silent,
        }
        out = tmp_path / str(silent)
        train(parse_recipe(tree, 'student'), out, accelerator='cpu')
        rows = csv.DictReader((out / 'metrics.csv').read_text().splitlines())
        losses.append(next(row['train_distillation'] for row in rows if row['train_distillation']))
    assert 0.0 < float(losses[1]) < float(losses[0])  # of the first step, before they part
