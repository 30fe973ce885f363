"""Folders of comparisons and runs written by hand, in the shapes that `compare` and `train` write."""

import json

import numpy as np

SCRIPT = "<script>alert('no')</script>"


def metric(value, spread=0.05):
    return {"value": value, "low": value - spread, "high": value + spread}


def retrieval_metrics(value, pool256=False):
    found = {}
    for prefix, shift in (("image->text/", 0.02), ("text->image/", -0.02), ("", 0.0)):
        found |= {
            f"{prefix}R@1": metric(value + shift),
            f"{prefix}R@5": metric(min(1.0, value + shift + 0.2), 0.02),
            f"{prefix}median_rank": metric(1.5, 0.5),
        }
    return found | ({"pool256/R@1": metric(value - 0.2)} if pool256 else {})


def cost(parameters=1_712_000):
    return {
        "parameters": parameters,
        "trainable_parameters": parameters,
        "training_flops": 3.1e13,
        "training_seconds": 101.2,
        "peak_memory_bytes": 812_000_000,
        "inference_ms_per_row": 0.41 if parameters > 1e6 else 7.3,
    }


def retrieval_examples(data):
    rows = data.rows("all")[:8].tolist()
    examples = []
    for place, row in enumerate(rows):
        others = [other for other in rows if other != row]
        rank = 1 if place >= 4 else 2 + 9 * place
        found = ([row, *others] if rank == 1 else [others[0], row, *others[1:]])[:5]
        if rank > 5:
            found = others[:5]
        examples.append(
            {
                "direction": "text->image",
                "query": row,
                "found": found,
                "answer": row,
                "rank": rank,
            }
        )
    return examples


def evaluation(metrics, main, examples, pool=50, task="retrieval"):
    return {
        "split": "test",
        "task": task,
        "main_metric": main,
        "rows": 300,
        "pool": pool,
        "metrics": metrics,
        "inference_ms_per_row": 0.41,
        "examples": examples,
        "faults": 0,
    }


def metric_lines(losses=("contrast",), stages=("train",), steps=60, step=0):
    random = np.random.default_rng(0)
    for stage in stages:
        for at in range(1, steps + 1):
            step += 1
            value = 0.4 + 4 * np.exp(-step / 30) + 0.1 * random.normal()
            line = {
                "step": step,
                "stage": stage,
                "split": "train",
                "stage_step": at,
                "stage_steps": steps,
                "seconds": 0.3 * step,
                "losses": {name: value * (1 + n) for n, name in enumerate(losses)},
            }
            if at % 3 == 1:
                yield {**line, "learning_rate": 1e-3}
            if at % 12 == 0:
                yield {**line, "split": "validation"}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_run(folder, data, scored, losses=("contrast",), stages=("train",), system="dual-encoder"):
    data.schema.save(_made(folder) / "schema.yaml")
    write_json(
        folder / "run.json",
        {
            "format": 1,
            "status": "finished",
            "system": system,
            "size": "nano",
            "data": data.recipe,
            "data_version": data.version,
            "task": scored["task"],
            "target": None,
            "budget": "2m",
            "seed": 0,
            "settings": {},
            "options": {},
            "init": None,
            "versions": {"sensorium": "0.1.0", "torch": "2.13.0"},
            "steps": 120,
            "cost": cost(),
        },
    )
    (folder / "config.yaml").write_text("system:\n  width: 128\ntraining:\n  precision: fp32\n")
    lines = [json.dumps(line) for line in metric_lines(losses, stages)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    write_json(folder / "evaluation.json", scored)


def write_comparison(folder, data, examples, error="UserError: out of memory & <b>patience</b>"):
    values = {"dual-encoder": 0.81, "interbert": 0.69}
    rows, systems = [], {}
    for name, value in values.items():
        metrics = retrieval_metrics(value, pool256=name == "dual-encoder")
        run = f"{name}-seed0"
        losses = ("contrast",) if name == "dual-encoder" else ("words", "regions", "match")
        stages = ("train",) if name == "dual-encoder" else ("pretraining", "tuning")
        scored = evaluation(metrics, "R@1", examples)
        write_run(folder / "runs" / run, data, scored, losses, stages, name)
        write_json(folder / "runs" / run / "cell.json", {"budget": "100s", "size": "nano"})
        costs = cost(1_712_000 if name == "dual-encoder" else 934_000)
        rows.append(
            {
                "system": name,
                "seed": 0,
                "status": "finished",
                "error": None,
                "task": "retrieval",
                "data": data.recipe["where"],
                "metrics": metrics,
                "cost": costs,
                "run": run,
                "main_metric": "R@1",
                "pool": 50,
                "rows": 300,
            }
        )
        shown = {key: {**value, "over": "rows"} for key, value in metrics.items()}
        systems[name] = {"runs": 1, "metrics": shown, "cost": costs}
    failed = {"system": "MySystem", "status": "failed", "error": error, "metrics": {}, "cost": {}}
    rows.append({**rows[0], **failed, "run": "MySystem-seed0"})
    difference = {"of": "dual-encoder", "from": "interbert", "metric": "R@1", "over": "rows"}
    write_json(folder / "compare.json", rows)
    write_json(
        folder / "summary.json",
        {
            "systems": systems,
            "best": "dual-encoder",
            "best_run": "dual-encoder-seed0",
            "differences": [{**difference, **metric(0.12, 0.07)}],
            "skipped": {"late-fusion": "is not made for retrieval"},
            "environment": {"machine": "x86_64", "cores": 2, "gpu": None, "torch": "2.13.0"},
            "main_metric": "R@1",
            "pool": 50,
            "rows": 300,
        },
    )
    return folder


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
