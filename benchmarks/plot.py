"""Curves as a picture, with OpenCV alone."""
from pathlib import Path

import cv2
import numpy as np

COLORS = ((180, 90, 20), (30, 60, 200), (40, 140, 40), (150, 40, 150))  # BGR
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 400, 70, 40, 20, 45
LABEL_WIDTH = 42  # of a number at the x axis, in pixels


def draw_curves(curves: dict[str, list[tuple[float, list[float]]]], title: str,
                limits: tuple[float, float] | None = None, x_label: str = 'step',
                legend: int = HEIGHT // 2) -> np.ndarray:
    """A line per curve over a logarithmic x axis, with a band from the smallest to the largest value at every point.

    Args:
        curves: {name: [(x, values at x), ...]}, x > 0.
        title: Above the plot.
        limits: Of the y axis; values beyond are drawn at its edge. Default: those of the data.
        x_label: Below the plot.
        legend: Row of the first curve's name, at the right.

    Returns:
        ndarray: (400, 640, 3) BGR uint8.
    """
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, values in points for y in values if np.isfinite(y)]
    low, high = limits or (min(ys), max(ys))
    if high <= low:
        high = low + 1
    log_low, log_high = np.log(min(xs)), max(np.log(max(xs)), np.log(min(xs)) + 1e-6)

    def point(x, y):
        y = np.clip(np.nan_to_num(y, nan=low, posinf=high, neginf=low), low, high)
        return (int(LEFT + (np.log(x) - log_low) / (log_high - log_low) * (WIDTH - LEFT - RIGHT)),
                int(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)))

    for y in np.linspace(low, high, 6):
        _, row = point(min(xs), y)
        cv2.line(image, (LEFT, row), (WIDTH - RIGHT, row), (225, 225, 225), 1)
        _text(image, f'{y:.4g}', (8, row + 4))
    labelled = -WIDTH
    for x in sorted(set(xs)):
        column, _ = point(x, low)
        cv2.line(image, (column, HEIGHT - BOTTOM), (column, HEIGHT - BOTTOM + 4), (0, 0, 0), 1)
        if column - labelled > LABEL_WIDTH:
            _text(image, f'{x:.4g}', (column - 14, HEIGHT - BOTTOM + 18))
            labelled = column
    _text(image, title, (LEFT, 22), 0.5)
    _text(image, x_label, (WIDTH // 2, HEIGHT - 8))
    for index, (name, points) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        band = [point(x, min(values)) for x, values in points] + [point(x, max(values)) for x, values in points[::-1]]
        overlay = cv2.fillPoly(image.copy(), [np.array(band)], color)
        image = cv2.addWeighted(overlay, 0.2, image, 0.8, 0)
        line = np.array([point(x, np.mean(values)) for x, values in points])
        cv2.polylines(image, [line], False, color, 2, cv2.LINE_AA)
        _text(image, name, (WIDTH - RIGHT - 110, legend + 18 * index), 0.45, color)
    return image


def draw_growth(path: Path, curves: dict[str, list[tuple[float, list[float]]]], title: str) -> None:
    """Write a plot of cost per HR pixel, from zero, against HR pixels: level where cost is linear."""
    highest = max(value for points in curves.values() for _, values in points for value in values)
    step = next(step for step in (10.**k * m for k in range(-6, 9) for m in (1, 2, 5)) if 5 * step > 1.1 * highest)
    curves = {name: [(pixels / 1000, values) for pixels, values in points] for name, points in curves.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    legend = HEIGHT - BOTTOM + 8 - 18 * len(curves)  # near zero, where no curve is
    cv2.imwrite(str(path), draw_curves(curves, title, (0, 5 * step), 'thousand HR pixels', legend))


def _text(image, text, origin, size=0.38, color=(0, 0, 0)):
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)
