"""The playground is worth its name: things must be seen, in pairs, and new ones are harder."""

from sensorium.claims.base import Arm, Claim, above, near

POOL = 256

CLAIM = Claim(
    name="playground",
    system="dual-encoder",
    statement=(
        "On the playground a dual encoder finds far more than the colours of pictures tell; what it "
        "learns comes from pairs, so that with captions of other pictures it stays at chance; and "
        "things never seen in training are harder to find than new scenes of known ones"
    ),
    source="a check of the playground and of the scores, not of a paper",
    data="playground:scenes",
    arms={
        "dual encoder": Arm("dual-encoder", "system"),
        "bag of colours": Arm("dual-encoder", "control", {"encoder": {"image": "colours"}}),
        "shuffled pairs": Arm("dual-encoder", "control", options={"shuffled": "caption"}),
        "new things": Arm("dual-encoder", "control", data="playground:scenes?holdout=objects"),
    },
    task="retrieval",
    metric="R@1",
    shown=("image->text/R@1", "text->image/R@1", "R@10"),
    holds_if=(
        above("dual encoder", "bag of colours", by=0.1),
        near("shuffled pairs", 1 / POOL, within=0.005),
        above("dual encoder", "new things", by=0.1),
    ),
    budget="400steps",
    options={"validate_every": 200},
    evaluation={"pools": [POOL]},
    hours=0.5,
)
