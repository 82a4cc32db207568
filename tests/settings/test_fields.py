from __future__ import annotations

from typing import Literal

import pytest

from earlybird.errors import ConfigError
from earlybird.settings.fields import fits, legal_values
from earlybird.settings.method import EarlyBirdTraining
from earlybird.settings.run import DataConfig, ModelConfig, TrainingSettings


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0, 0.5], [True, "0.5", None]),
        (bool, [True], [1, "true"]),
        (str, ["x"], [1, None]),
        (int | None, [None, 3], [1.5, "3"]),
        (Literal["a", "b"], ["a"], ["c", 1, None]),
        (tuple[float, ...], [(), (0.5, 1), [0.5]], [0.5, ("x",), "0.5"]),
    ],
)
def test_a_value_fits_its_annotation_or_not(kind, good, bad):
    assert [fits(value, kind) for value in good] == [True] * len(good)
    assert [fits(value, kind) for value in bad] == [False] * len(bad)


def test_what_is_legal_is_said_in_words():
    assert legal_values(int | None) == "an integer or null"
    assert legal_values(Literal["step", "cosine"]) == "step, cosine"
    assert legal_values(tuple[float, ...]) == "a list of numbers such as [0.3,0.5]"
    assert legal_values(list[str]) == "a list of names such as [stem,layer1*]"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingSettings, {"epochs": "3"}, r"training\.epochs is '3'; give an integer"),
        (TrainingSettings, {"epochs": 1.5}, r"training\.epochs is 1\.5; give an integer"),
        (TrainingSettings, {"batch_size": True}, r"training\.batch_size is True; give an integer"),
        (TrainingSettings, {"micro_batches": 129}, r"training\.micro_batches is 129; give an integer in \[1, 128\]"),
        (TrainingSettings, {"milestones": 0.5}, r"training\.milestones is 0\.5; give a list of numbers"),
        (
            EarlyBirdTraining,
            {"weights": "rewnd"},
            r"method\.weights is 'rewnd'; did you mean 'rewind'\? give inherit, rewind, reinit",
        ),
        (EarlyBirdTraining, {"rule": "authors_code", "window": 1}, r"method\.window is 1; give an integer >= 2"),
        (EarlyBirdTraining, {"retrain_penalty": "on"}, r"method\.retrain_penalty is 'on'; give a number or search$"),
        (EarlyBirdTraining, {"retrain_penalty": -1.0}, r"retrain_penalty is -1\.0; give a number >= 0, or search$"),
        (ModelConfig, {"width": "wide"}, r"model\.width is 'wide'; give a number"),
        (ModelConfig, {"width": 0.0}, r"model\.width is 0\.0; give a number in \(0, 100\)"),
        (DataConfig, {"train_images": 0}, r"data\.train_images is 0; give an integer >= 1"),
        (DataConfig, {"augment": "mixup"}, r"data\.augment is 'mixup'; give auto, crop_flip"),
    ],
)
def test_a_setting_of_the_wrong_type_or_choice_is_refused_at_birth(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_users_subclass_with_a_name_of_its_own_does_the_work_of_its_parent():
    class Mine(EarlyBirdTraining):
        name = "mine"

    assert Mine().work is EarlyBirdTraining().work
    assert Mine().work.__name__ == "earlybird.methods.early_bird"
