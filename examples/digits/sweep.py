"""Train a grid of small neural networks on handwritten digits, in parallel, and see which learned to read best.

    python sweep.py                 on the cores of this machine
    python sweep.py --app ray       on another backend, once its package is installed
    python sweep.py --epochs 100    longer
    python sweep.py --detach        launch it and leave; `mini watch digits` and `mini report digits` come back to it

What to look at: `train` runs on the workers, reports how far it is, and leaves its model in the volume. `judge` runs
there too, reads the best models back from the volume, and only its summary travels. Nothing below knows which backend
it runs on.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import mini
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split as split
from sklearn.neural_network import MLPClassifier

HIDDEN = [8, 16, 32, 64, 128, 256]
RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]


@dataclass(frozen=True)
class Data:
    """Images of 8 x 8 pixels, scaled to 0..1, and the digits that they show."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    hidden: int
    rate: float


@dataclass(frozen=True)
class Trained:
    setting: Setting
    accuracy: float
    seconds: float
    model: str
    """Where it is in the volume."""


@dataclass(frozen=True)
class Judgement:
    best: float
    """Accuracy of the best model on images that no decision was based on."""
    ensemble: float
    """The same of all the models that were judged, voting together."""
    confusion: np.ndarray
    """Of the best model: row, the digit; column, what it was read as."""


def load() -> Data:
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    rest, test, rest_digits, test_digits = split(images, digits, test_size=0.2, random_state=0)
    train, validation, train_digits, validation_digits = split(
        rest, rest_digits, test_size=0.25, random_state=0
    )
    return Data((train, train_digits), (validation, validation_digits), (test, test_digits))


def train(setting: Setting, data: Data, epochs: int) -> Trained:
    """One model, on a worker."""
    started = time.perf_counter()
    model = MLPClassifier((setting.hidden,), learning_rate_init=setting.rate, batch_size=32, random_state=0)
    for epoch in range(1, epochs + 1):
        model.partial_fit(*data.train, classes=range(10))
        mini.emit_progress(epoch, epochs, "epochs")
        mini.emit_metrics(loss=model.loss_)
    accuracy = float(model.score(*data.validation))
    mini.emit_metrics(accuracy=accuracy)

    path = mini.get_data_dir() / "models" / f"{setting.hidden}-{setting.rate}.pickle"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(model))
    return Trained(
        setting, accuracy, time.perf_counter() - started, str(path.relative_to(mini.get_data_dir()))
    )


def judge(models: Sequence[str], data: Data) -> Judgement:
    """The models, best first, on images that none of them has seen; on a worker, where the models are."""
    images, digits = data.test
    votes = []
    for number, name in enumerate(models, 1):
        model = pickle.loads((mini.get_data_dir() / name).read_bytes())
        votes.append(model.predict_proba(images))
        mini.emit_progress(number, len(models), "models")
    best, ensemble = votes[0].argmax(axis=1), np.mean(votes, axis=0).argmax(axis=1)
    return Judgement(
        float((best == digits).mean()), float((ensemble == digits).mean()), confusion_matrix(digits, best)
    )


def table(results: Sequence[Trained]) -> Table:
    table = Table(title=f"{len(results)} models, the best first")
    for heading in ("hidden units", "learning rate", "accuracy", "seconds"):
        table.add_column(heading, justify="right")
    for result in results:
        setting = result.setting
        values = (f"{setting.hidden}", f"{setting.rate:g}", f"{result.accuracy:.3f}", f"{result.seconds:.2f}")
        table.add_row(*values, style="bold green" if result is results[0] else None)
    return table


def picture(results: Sequence[Trained], path: Path) -> None:
    """Accuracy against both hyperparameters. A setting whose call failed stays blank."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    grid = np.full((len(HIDDEN), len(RATES)), np.nan)
    for result in results:
        grid[HIDDEN.index(result.setting.hidden), RATES.index(result.setting.rate)] = result.accuracy
    figure, axes = plt.subplots(figsize=(7, 5.2), layout="constrained")
    # The good ones differ in the last percent, the bad ones by tens: colour by error, on a logarithmic scale.
    shown = axes.imshow(-np.log10(np.maximum(1 - grid, 1e-3)), cmap="viridis", origin="lower", aspect="auto")
    middle = np.nanmean(shown.get_clim())
    for (row, column), value in np.ndenumerate(grid):
        light = -np.log10(max(1 - value, 1e-3)) < middle
        label = "failed" if np.isnan(value) else f"{value:.3f}"
        axes.text(column, row, label, ha="center", va="center", color="white" if light else "black")
    axes.set(title="Accuracy on the validation images", xlabel="learning rate", ylabel="hidden units")
    axes.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    axes.set_yticks(range(len(HIDDEN)), [str(hidden) for hidden in HIDDEN])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def sweep(app: mini.Apparatus, settings: Sequence[Setting], data: Data, epochs: int) -> list[Trained]:
    """Train all settings and return those that worked, the best first."""
    # One thread for each worker: it is the grid that runs in parallel.
    app = app.w(env={"OMP_NUM_THREADS": "1"})
    inputs = {"data": data, "epochs": epochs}
    results: list[Trained] = []
    for setting, result in zip(
        settings, app.map(train, settings, kwargs=inputs, return_exceptions=True), strict=True
    ):
        if isinstance(result, BaseException):
            print(f"failed: {setting}: {result!r}")
            continue
        if all(result.accuracy > other.accuracy for other in results):
            print(
                f"best so far: {result.accuracy:.3f} with {setting.hidden} hidden units, rate {setting.rate:g}"
            )
        results.append(result)
    return sorted(results, key=lambda result: -result.accuracy)


def launch(app: mini.Apparatus, settings: Sequence[Setting], data: Data, epochs: int) -> None:
    """Start training all settings, and leave them to themselves."""
    app = app.w(env={"OMP_NUM_THREADS": "1"})
    group = app.spawn_map(train, settings, kwargs={"data": data, "epochs": epochs})
    print(f"launched {len(group)} jobs on {app.backend}; they go on without this terminal. Come back with")
    for verb in ("watch", "status", "report"):
        print(f"  mini {verb} {app.name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train a grid of small neural networks on handwritten digits."
    )
    parser.add_argument("--app", metavar="NAME", help="the backend (default: MINI_APP, or local)")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--detach", action="store_true", help="launch it and leave")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("sweep.png"), help="the picture")
    args = parser.parse_args()

    data = load()
    settings = [Setting(hidden, rate) for hidden in HIDDEN for rate in RATES]
    started = time.perf_counter()
    with mini.apparatus(args.app, "digits") as app:
        if args.detach:
            launch(app, settings, data, args.epochs)
            return 0
        results = sweep(app, settings, data, args.epochs)
        if not results:
            return 1
        verdict = app.run(judge, [result.model for result in results[:5]], data)
    seconds = time.perf_counter() - started

    Console().print(table(results))
    mistakes = verdict.confusion * (1 - np.eye(10, dtype=int))
    digit, read_as = np.unravel_index(mistakes.argmax(), mistakes.shape)
    print(f"On unseen images the best model is right in {verdict.best:.1%},", end=" ")
    print(f"the best five together in {verdict.ensemble:.1%}.")
    print(f"Its most frequent mistake: {mistakes.max()} times it read a {digit} as a {read_as}.")
    picture(results, args.out)
    print(f"Trained and judged in {seconds:.1f} s; the picture is {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
