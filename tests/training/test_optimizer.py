"""What is trained, how fast, and the running average."""

import pytest
import torch
from torch import nn

from sensorium.training.optimizer import (
    WeightAverage,
    build_optimizer,
    check_patterns,
    learning_rate,
    select_trained,
    set_learning_rate,
)
from sensorium.training.options import TrainingOptions
from sensorium.types import Stage, UserError


def make_model():
    return nn.ModuleDict({"trunk": nn.Linear(3, 3), "head": nn.Linear(3, 2)})


def test_frozen_means_bitwise_unchanged_while_gradients_pass_through():
    model = make_model()
    stage = Stage(frozen=("head.*",))
    trained = select_trained(model, stage)
    assert set(trained) == {"trunk.weight", "trunk.bias"}
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(trained, stage)
    model["head"](model["trunk"](torch.ones(2, 3))).sum().backward()
    optimizer.step()
    assert torch.equal(model["head"].weight, before["head.weight"])
    assert not torch.equal(model["trunk"].weight, before["trunk.weight"])


def test_nothing_to_train_is_an_error():
    with pytest.raises(UserError, match="trains nothing"):
        select_trained(make_model(), Stage(train=("body.*",)))


def test_decay_spares_biases_and_the_scale_follows_the_first_pattern():
    model = make_model()
    stage = Stage(weight_decay=0.1, learning_rate_scale={"head.*": 0.5, "*": 1.0})
    optimizer = build_optimizer(select_trained(model, stage), stage)
    found = {
        id(p): (g["scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert found[id(model["head"].weight)] == (0.5, 0.1)
    assert found[id(model["head"].bias)] == (0.5, 0.0)
    assert found[id(model["trunk"].weight)] == (1.0, 0.1)
    set_learning_rate(optimizer, 0.2)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == [0.1, 0.2]


@pytest.mark.parametrize(
    ("schedule", "last"), [("linear", 0.125), ("constant", 1.0), ("cosine", 0.0380602)]
)
def test_the_learning_rate_rises_and_falls(schedule, last):
    stage = Stage(learning_rate=1.0, warmup=0.2, schedule=schedule)
    rates = [learning_rate(stage, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(last)
    assert learning_rate(Stage(learning_rate=1.0, warmup=0.0), 0, 10) == 1.0


def test_the_average_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.5)
    for value, decay in ((1.0, 2 / 11), (2.0, 3 / 12)):
        nn.init.constant_(model.weight, value)
        before = average.values["weight"].clone()
        average.update(model)
        expected = decay * before + (1 - decay) * value
        torch.testing.assert_close(average.values["weight"], expected)
    assert average.applied_to(model.state_dict())["weight"].item() != model.weight.item()


def test_what_an_option_freezes_is_frozen_in_every_stage_and_must_be_there():
    model = make_model()
    stages = [Stage(name="one", frozen=("head.bias",)), Stage(name="two")]
    found = TrainingOptions(frozen=("trunk.*",)).applied_to(stages)
    assert [set(select_trained(model, stage)) for stage in found] == [
        {"head.weight"},
        {"head.weight", "head.bias"},
    ]
    check_patterns(model, ("trunk.*", "head.bias"))
    with pytest.raises(
        UserError, match=r"'eyes\.\*' fits no weight; there are head\.\*, trunk\.\*"
    ):
        check_patterns(model, ("trunk.*", "eyes.*"))
