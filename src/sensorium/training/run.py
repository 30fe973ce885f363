"""A run: a system trained on data, kept in a folder, and what can be asked of it afterwards."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError

from sensorium import __version__
from sensorium.data import Data, MediaCache, open_data
from sensorium.data.missing import with_missing_now
from sensorium.modalities.base import get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.base import Size, System, SystemConfig
from sensorium.systems.registry import get_system
from sensorium.tasks import Evaluation, Task, get_task, guess_task
from sensorium.tasks.base import Reader
from sensorium.training.budget import Budget
from sensorium.training.files import (
    read_tensors,
    read_yaml,
    write_aside,
    write_folder_aside,
    write_json,
    write_tensors,
    write_yaml,
)
from sensorium.training.folder import FORMAT, RunFolder
from sensorium.training.interruption import Interrupted
from sensorium.training.optimizer import select_trained
from sensorium.training.options import TrainingOptions
from sensorium.training.trainer import Trainer
from sensorium.types import Schema, UserError
from sensorium.types.names import did_you_mean
from sensorium.types.schema import explain

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS_FOR_TOKENIZER = 100_000


@dataclass
class Run:
    """A trained system and where it is kept.

    Attributes:
        folder: the run folder.
        info: what `run.json` says.
        system: in evaluation mode.
    """

    folder: RunFolder
    info: dict[str, Any]
    system: System

    @property
    def schema(self) -> Schema:
        """The fields it was trained on."""
        return self.system.schema

    def data(self) -> Data:
        """The data it was trained on, opened again."""
        return open_data(**self.info["data"]).with_schema(self.schema)

    def rows_of(self, where: str | Path | Data) -> Data:
        """Other rows, read as this run's fields; fields that these rows lack are absent."""
        return rows_for(self.schema, where, self.info["data"].get("samples", True))

    def evaluate(
        self,
        data: str | Path | Data | None = None,
        *,
        split: str = "test",
        pools: Sequence[int] | None = None,
        max_rows: int | None = None,
        whole_groups: bool = False,
        missing: Sequence[str] | None = None,
        cache: MediaCache | None = None,
        samples: bool = True,
    ) -> Evaluation:
        """Scores on a split of its own data, or on all of other data.

        Scores on its own test rows are kept in the run folder, with a few rows as examples unless
        `samples` is false or it was trained on data that are not to be shown. `pools`, `max_rows`
        and `whole_groups` are for retrieval (`max_rows` also for universal retrieval); see `Retrieval`. `missing`, as in `open_data`, hides
        other fields than the run's data do; such scores are not kept.
        """
        task = get_task(
            self.info["task"], pools=pools, max_rows=max_rows, whole_groups=whole_groups
        )
        if data is None:
            own = self.data()
            rows = own.rows(split)
        else:
            own = self.rows_of(data)
            rows = own.rows("all")
        if len(rows) == 0:
            raise UserError(f"there are no {split} rows in {own.name}")
        if not samples:
            own = own.without_samples()
        if missing is not None:
            own = with_missing_now(own, missing, rows)
        evaluation = evaluate_system(self.system, own, rows, task, cache)
        if data is None and split == "test" and missing is None:
            save_evaluation(self.folder, evaluation, split)
        return evaluation

    def embed(self, data: str | Path | Data, field: str | None = None) -> pa.Table:
        """Embeddings of new rows: a table with `key` and, for each field, a vector or null.

        Raises:
            UserError: the system does not embed, or not this field.
        """
        import pyarrow as pa

        self._needs("embed")
        rows = self.rows_of(data)
        fields = [self.schema[field].name] if field else list(self._embedded_fields())
        reader = Reader(self.system, rows, 64, None)
        keys: list[str] = []
        vectors: dict[str, list[Any]] = {name: [] for name in fields}
        for batch in reader.batches(rows.rows("all")):
            keys += [str(key) for key in batch.keys]
            for name in fields:
                present = batch.present(name).tolist()
                if not any(present):
                    vectors[name] += [None] * batch.size
                    continue
                with reader.asking():
                    embedded = self.system.embed(batch, name).float().cpu().numpy()  # type: ignore[operator]
                vectors[name] += [v if p else None for v, p in zip(embedded, present, strict=True)]
        columns = {name: pa.array(v, pa.list_(pa.float32())) for name, v in vectors.items()}
        return pa.table({"key": pa.array(keys, pa.string()), **columns})

    def predict(self, data: str | Path | Data) -> pa.Table:
        """Predictions for new rows: a table with `key`, `prediction` and class `probabilities`.

        Raises:
            UserError: the system does not predict.
        """
        import pyarrow as pa

        self._needs("predict")
        rows = self.rows_of(data)
        label = self.schema.find(role=("label", "answer"))[0]
        reader = Reader(self.system, rows, 64, None)
        keys: list[str] = []
        outputs = []
        for batch in reader.batches(rows.rows("all")):
            keys += [str(key) for key in batch.keys]
            with reader.asking():
                outputs.append(self.system.predict(batch).float().cpu())  # type: ignore[operator]
        values = torch.cat(outputs).numpy() if outputs else np.zeros((0, 1), np.float32)
        columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
        if label.modality == "number":
            columns["prediction"] = pa.array(values, pa.float32())
            return pa.table(columns)
        classes = [str(name) for name in label.fitted["classes"]]
        if label.modality == "categories":
            found = [[classes[i] for i in np.flatnonzero(row > 0.5)] for row in values]
            columns["prediction"] = pa.array(found, pa.list_(pa.string()))
        else:
            columns["prediction"] = pa.array([classes[i] for i in values.argmax(1)], pa.string())
        columns["probabilities"] = pa.array(list(values), pa.list_(pa.float32()))
        table = pa.table(columns)
        return table.replace_schema_metadata({"classes": "\n".join(classes)})

    def _embedded_fields(self) -> list[str]:
        return [field.name for field in self.schema.find(role=("query", "target"))]

    def _needs(self, capability: str) -> None:
        if capability not in self.system.capabilities:
            has = ", ".join(sorted(self.system.capabilities)) or "none"
            raise UserError(
                f"system '{self.info['system']}' cannot {capability} as it was trained "
                f"(task {self.info['task']}); it can: {has}"
            )


def train(
    system: str | type[System],
    data: str | Path | Data,
    *,
    out: str | Path,
    task: str | None = None,
    target: str | None = None,
    size: Size = "nano",
    settings: Mapping[str, Any] | None = None,
    options: TrainingOptions | Mapping[str, Any] | None = None,
    budget: str = "2m",
    seed: int = 0,
    device: str | None = None,
    init: str | Path | None = None,
    cache: str | Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Run:
    """Train a system on data and keep it in a folder.

    The same call on the folder of a run that was stopped resumes it; on that of a finished one, it
    loads it.

    Args:
        system: a name of the catalogue, `path/to/file.py:ClassName`, or a class.
        data: what `sensorium.open` takes or gives.
        out: the run folder.
        task: `retrieval`, `universal-retrieval`, `classification`, `regression`, `vqa`, `captioning` or
            `reconstruction`; guessed from the roles if None.
        target: the field or column to be predicted.
        size: `nano` or `paper`.
        settings: of the system, by dotted path.
        options: of the training.
        budget: for example `500steps`, `3epochs` or `2m`.
        seed: of initial weights, order, draws and dropout.
        device: `cpu` or `cuda`; None for the best there is.
        init: a run whose weights are the start, where names (of encoders, their fields) and shapes
            agree.
        cache: the folder of the media cache; None for one in the user's cache folder.
        report: called with each line of metrics.

    Raises:
        UserError: something asked for does not fit; the message says what and how to mend it.
        Interrupted: Ctrl-C; the same call resumes.
    """
    folder = RunFolder(out)
    system_class = get_system(system) if isinstance(system, str) else system
    options = build_options(options)
    amount = Budget.parse(budget)
    opened = data if isinstance(data, Data) else open_data(data)
    chosen = get_task(task or guess_task(opened.schema, target))
    opened = opened.with_schema(chosen.assign(opened.schema, target))
    asked = {
        "system": system if isinstance(system, str) else system_class.name,
        "size": size,
        "data": opened.recipe,
        "data_version": opened.version,
        "task": chosen.name,
        "target": target,
        "budget": budget,
        "seed": seed,
        "settings": dict(settings or {}),
        "options": options.model_dump(exclude_defaults=True),
        "init": str(init) if init else None,
    }
    main = is_main_process()
    folder.create()
    with folder.locked() if main else nullcontext():
        if folder.run_file.exists():
            before = folder.read_run()
            _check_same(folder, before, asked)
            if before["status"] == "finished":
                return load(folder.path, device)
        system_class.check(opened.schema)
        config = build_config(system_class, size, settings)
        opened = opened.with_schema(system_class.fields(config, opened.schema)).fit()
        start = load(init, "cpu") if init else None
        knows = start is not None and system_class.reads_words_as(start.system)
        tokenizer = build_tokenizer(config, opened, start if knows else None)
        torch.manual_seed(seed)
        built = system_class(config, opened.schema, tokenizer)
        if start is not None:
            warm_start(built, start)
        info = {"format": FORMAT, "status": "running", **asked, "versions": _versions()}
        if main:
            write_json(folder.run_file, info)
            settings_used = {
                "system": config.model_dump(mode="json"),
                "training": options.model_dump(),
            }
            write_yaml(folder.config_file, settings_used)
            write_aside(folder.schema_file, opened.schema.save)
            folder.append_faults(opened.faults)
            if tokenizer is not None:
                write_folder_aside(folder.tokenizer, tokenizer.save)
        trainer = Trainer(
            system=built,
            data=opened,
            folder=folder,
            budget=amount,
            seed=seed,
            options=options,
            device=device,
            cache=MediaCache(Path(cache) if cache else default_cache()),
            report=report,
        )
        progress = trainer.run()
        built.eval()
        info |= {
            "status": "finished",
            "steps": progress.step,
            "rows_seen": progress.rows_seen,
            "rows_set_aside": progress.faults,
            "cost": _cost(built, trainer),
        }
        if main:
            write_tensors(folder.model_file, built.state_dict())
            write_json(folder.run_file, info)
    return Run(folder, info, built)


def load(path: str | Path, device: str | None = None) -> Run:
    """A finished run.

    Raises:
        UserError: this is no run folder, or the run has not ended.
    """
    folder = RunFolder(path)
    info = folder.read_run()
    if not folder.model_file.exists():
        raise UserError(
            f"the run in {folder.path} has not ended; run the same `sensorium train` again to go on"
        )
    system_class = get_system(info["system"])
    try:
        config = system_class.Config(**read_yaml(folder.config_file)["system"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{folder.config_file}: no settings of '{system_class.name}': {error}"
        ) from None
    tokenizer = Tokenizer.load(folder.tokenizer) if folder.tokenizer.exists() else None
    system = system_class(config, Schema.load(folder.schema_file), tokenizer)
    try:
        system.load_state_dict(read_tensors(folder.model_file))
    except RuntimeError as error:
        raise UserError(f"{folder.model_file} does not fit the system: {error}") from None
    cuda = torch.cuda.is_available() if device is None else device == "cuda"
    return Run(folder, info, system.to("cuda" if cuda else "cpu").eval())


def rows_for(schema: Schema, where: str | Path | Data, samples: bool = True) -> Data:
    """Rows read as the fields of a schema that was fitted on others; fields that they lack are absent.

    Args:
        schema: of a run.
        where: as for `open_data`, or opened rows.
        samples: whether the rows may be shown.
    """
    if not isinstance(where, Data):
        where = open_data(where, schema=schema, new=True, samples=samples)
    return where.with_schema(schema)


def evaluate(
    run: Run | str | Path, data: str | Path | Data | None = None, **asked: Any
) -> Evaluation:
    """Scores of a run; `asked` as in `Run.evaluate`."""
    return (run if isinstance(run, Run) else load(run)).evaluate(data, **asked)


def is_main_process() -> bool:
    """Whether this is the process that writes, of those that `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def evaluate_system(
    system: System,
    data: Data,
    rows: np.ndarray,
    task: Task,
    cache: MediaCache | None = None,
) -> Evaluation:
    """Scores of a system on rows, in evaluation mode."""
    if not task.fits(system.capabilities):
        has = ", ".join(sorted(system.capabilities)) or "nothing"
        raise UserError(f"system '{system.name}' cannot be asked for {task.name}; it can: {has}")
    system.eval()
    evaluation = task.evaluate(system, data, rows, cache=cache or MediaCache(default_cache()))
    return evaluation if data.samples else replace(evaluation, examples=[])


def save_evaluation(folder: RunFolder, evaluation: Evaluation, split: str) -> None:
    """Keep scores in the run folder, with what each row contributes."""
    write_json(folder.evaluation_file, {"split": split, **evaluation.as_dict()})
    per_row = {
        f"{kind}/{key}": torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        for kind, columns in (
            ("value", evaluation.scores.per_row),
            ("group", evaluation.scores.groups),
        )
        for key, values in columns.items()
    }
    write_tensors(folder.scores_file, per_row)


def build_config(
    system_class: type[System], size: Size, settings: Mapping[str, Any] | None
) -> SystemConfig:
    """The settings of a system at a size, with overrides."""
    if size not in ("nano", "paper"):
        raise UserError(f"size '{size}': expected nano or paper")
    config = system_class.Config.nano() if size == "nano" else system_class.Config.paper()
    return config.override(settings or {})


def build_options(options: TrainingOptions | Mapping[str, Any] | None) -> TrainingOptions:
    """Training options, with unknown ones refused."""
    if isinstance(options, TrainingOptions):
        return options
    for name in options or {}:
        if name not in TrainingOptions.model_fields:
            known = TrainingOptions.model_fields
            raise UserError(f"unknown training option '{name}'. {did_you_mean(name, known)}")
    try:
        return TrainingOptions(**(options or {}))
    except ValidationError as error:
        raise UserError(f"training option {explain(error)}") from None


def build_tokenizer(config: SystemConfig, data: Data, start: Run | None) -> Tokenizer | None:
    """That of a published model, if the settings name one; else of the run it starts from, or a new one."""
    if not any(get_modality(f.modality).written and f.role != "ignore" for f in data.schema):
        return None
    kind, _, value = config.tokenizer_source.partition(":")
    if kind == "hf" and value:
        return Tokenizer.from_hub(value)
    if start is not None and start.system.tokenizer is not None:
        return start.system.tokenizer
    if kind == "bpe" and value.isdigit():
        return Tokenizer.train(data.texts(TEXTS_FOR_TOKENIZER), int(value))
    raise UserError(
        f"setting tokenizer: '{config.tokenizer_source}' is neither bpe:SIZE nor hf:NAME_OR_PATH"
    )


def warm_start(system: System, start: Run) -> None:
    """Take over the weights of another run where names and shapes agree.

    Raises:
        UserError: none agrees.
    """
    own = system.state_dict()
    fitting = {
        name: value
        for name, value in system.weights_from(start.system).items()
        if name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise UserError(
            f"--init {start.folder.path}: none of its weights fits '{system.name}' in name and shape, and "
            "it has no encoder of the same field and size"
        )
    system.load_state_dict(fitting, strict=False)


def default_cache() -> Path:
    """The user's cache folder."""
    base = os.environ.get("SENSORIUM_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or "~/.cache").expanduser() / "sensorium"


def peak_memory(system: System) -> int:
    """The most memory that was in use, in bytes: of the GPU if there is one, else of the process."""
    if next(system.parameters()).device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cost(system: System, trainer: Trainer) -> dict[str, float]:
    """What the run took. Floating-point operations are counted in one step of each stage."""
    progress = trainer.progress
    trained: dict[str, int] = {}
    for stage in trainer.stages:
        trained |= {name: p.numel() for name, p in select_trained(system, stage).items()}
    flops = zip(progress.stage_steps, progress.flops_per_step, strict=True)
    return {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        "trainable_parameters": sum(trained.values()),
        "training_flops": sum(steps * of_one for steps, of_one in flops),
        "training_seconds": progress.seconds,
        "peak_memory_bytes": peak_memory(system),
    }


def _check_same(folder: RunFolder, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    other = [n for n, v in asked.items() if before.get(n) != json.loads(json.dumps(v))]
    if other:
        name = other[0]
        raise UserError(
            f"{folder.path} holds another run ({name} was {before.get(name)!r}, now "
            f"{asked[name]!r}); choose another folder with --out, or remove this one"
        )


def _versions() -> dict[str, str]:
    found = {"sensorium": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["Interrupted", "Run", "evaluate", "evaluate_system", "load", "save_evaluation", "train"]
