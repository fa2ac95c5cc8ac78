"""How figures are shown: labels, numbers, tables, JSON."""
import math

BICUBIC = 'bicubic'


def temperature_label(temperature: float) -> str:
    """0.9 -> 't0.9', 1.0 -> 't1': how file names, logs and reports call a temperature."""
    return f't{temperature:g}'


def json_safe(results: dict[str, float]) -> dict:
    """JSON has no infinities (the PSNR of equal images) and no NaN; they become text."""
    return {metric: value if math.isfinite(value) else str(value) for metric, value in results.items()}


def aligned(lines: list[list[str]], num_texts: int = 1) -> str:
    """A table of cells with a line below its head; the first `num_texts` columns are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ['  '.join(cell.ljust(width) if i < num_texts else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines]
    return '\n'.join([text[0], '-' * max(map(len, text)), *text[1:]])


def number(value: float) -> str:
    """A figure as tables and sheets show it."""
    return f'{value:.4f}' if abs(value) < 10 else f'{value:.2f}'
