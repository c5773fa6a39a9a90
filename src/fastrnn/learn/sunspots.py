"""Many to one: next year's sunspot number from the years before, against persistence and a linear autoregression."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from ..train import Adam, Chain, CosineSchedule, LastStep, Linear, Sequences, fit, mean_squared
from .options import Options, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

YEARS, HELD_OUT, LAGS = 40, 60, 9  # that the model reads; at the end, for the test; of the autoregression
MEMBERS = 8  # models whose forecasts are averaged


def load() -> tuple[np.ndarray, np.ndarray]:
    """The years 1700 to 2008, and each one's mean sunspot number."""
    text = files(__package__).joinpath("data/sunspots.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines() if line[:1].isdigit()]
    return np.array([int(year) for year, _ in rows]), np.array([float(number) for _, number in rows])


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """(n, length): the values before each of values[length:]."""
    return np.lib.stride_tricks.sliding_window_view(values, length)[:-1]


def rmse(forecast: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((forecast - truth) ** 2)))


def autoregression(values: np.ndarray) -> np.ndarray:
    """Forecasts of the held-out years from the LAGS before each, fitted by least squares to the years before them."""
    x = np.column_stack([windows(values, LAGS), np.ones(len(values) - LAGS)])
    weights = np.linalg.lstsq(x[:-HELD_OUT], values[LAGS:-HELD_OUT], rcond=None)[0]
    return x[-HELD_OUT:] @ weights


def learn(options: Options) -> Result:
    """Train on all years but the last 60, choosing the best of each run on the 40 before them."""
    cell = options.cell or "gru"
    years, numbers = load()
    values = np.sqrt(numbers)  # whose noise is as large at the maxima as at the minima
    mean, scale = values[:-HELD_OUT].mean(), values[:-HELD_OUT].std()
    x = ((windows(values, YEARS) - mean) / scale).astype(np.float32)[..., None]
    y = ((values[YEARS:] - mean) / scale).astype(np.float32)[:, None]
    training, validation = slice(0, -HELD_OUT - YEARS), slice(-HELD_OUT - YEARS, -HELD_OUT)
    forecasts, members = [], []
    for k in range(1 if options.quick else MEMBERS):
        seed = options.seed * MEMBERS + k
        rnn = options.layer(cell, 1, 32 + k)  # a size of its own, and so weights of its own
        model = Chain(rnn=rnn, last=LastStep(), out=Linear(32 + k, 1, rng=seed))
        epochs = options.epochs or (20 if options.quick else 60)
        fit(
            model, Sequences(x[training], y[training]), mean_squared, Adam(model.params, lr=0.005), rng=seed, clip=1.0,
            schedule=CosineSchedule(), validation=Sequences(x[validation], y[validation]), patience=epochs,
            **options.for_fit(f"{cell}-{k}", epochs=epochs),
        )  # fmt: skip
        members.append(model)
        forecasts.append(model(x[-HELD_OUT:].swapaxes(0, 1))[:, 0] * scale + mean)
    forecast = np.square(np.maximum(np.mean(forecasts, axis=0), 0))
    truth, linear, of_roots = numbers[-HELD_OUT:], autoregression(numbers), np.square(autoregression(values))
    figures = {
        "rmse": rmse(forecast, truth),
        "persistence_rmse": rmse(numbers[-HELD_OUT - 1 : -1], truth),
        "autoregression_rmse": rmse(linear, truth),
        "root_autoregression_rmse": rmse(of_roots, truth),  # that of the square roots, which the models read too
    }
    parts = {f"model{k}": model for k, model in enumerate(members)}

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.plot(years[-HELD_OUT:], truth, "o", color="#222222", markersize=4, label="observed")
        for name, line, colour in (
            (f"{cell.upper()}: RMSE {figures['rmse']:.1f}", forecast, "#c8102e"),
            (f"autoregression: {figures['autoregression_rmse']:.1f}", linear, "#0072b2"),
        ):
            axis.plot(years[-HELD_OUT:], line, color=colour, label=name)
        axis.set_title("The next year's sunspot number, forecast from the years before", loc="left", fontweight="bold")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)

    return Result(cell, figures, parts=parts, draw=draw)
