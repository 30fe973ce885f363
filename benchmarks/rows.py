"""Memory while reading the playground, from 10,000 to 1,000,000 rows.

In a process of its own a data set of that many training rows is opened, fitted, and read for the same
number of batches, spread over the whole epoch's order.
"""

from __future__ import annotations

from harness import Figure, Result, Settings, Target, own_process, peak_memory

NUMBERS = (10_000, 100_000, 1_000_000)
BATCH_SIZE, NUM_STEPS = 64, 10


def read(num_rows: int) -> float:
    """MiB at its highest, of a process that reads a data set."""
    import sensorium as sm
    from sensorium.data import train_batches
    from sensorium.modalities.image import ImageView
    from sensorium.modalities.text import TextView, Tokenizer

    data = sm.open(f"playground:scenes?train={num_rows}").fit()
    tokenizer = Tokenizer.train(data.texts(2000), 1000)
    views = {"image": ImageView(), "caption": TextView(tokenizer=tokenizer)}
    for _ in train_batches(data, views, batch_size=BATCH_SIZE, seed=0, num_steps=NUM_STEPS):
        pass
    return peak_memory()


def measure(settings: Settings) -> Result:
    """The peak with most rows, over that with fewest."""
    peaks: dict[int, list[float]] = {number: [] for number in NUMBERS}
    for _ in range(settings.repeats):
        for number in NUMBERS:
            with own_process() as process:
                peaks[number].append(process.submit(read, number).result())
    few = NUMBERS[0]
    return Result(
        [
            Figure(
                f"peak memory with {number:,} rows, over that with {few:,}",
                "MiB",
                peaks[number],
                f"{few:,} rows",
                peaks[few],
                Target("at most", 1.1),
            )
            for number in NUMBERS[1:]
        ],
        ["Peak resident memory of the whole process, with Python and PyTorch."],
    )
