"""Winograd's convolution along columns, for CPUs: half the multiplications of a conv3x3.

Four rows of an output need six products instead of twelve (Winograd's F(4, 3) in one dimension; Lavin and Gray, 2016).
With y = OUT ((FILTER g) * (IN d)), six rows d of the input give four rows y, where g is a column of the kernel. IN, OUT
and FILTER are small matrices, and multiplying by them is cheap. Between them are six convolutions with a 1x3 kernel,
one for each product, which PyTorch runs as one convolution with six groups. Transforming both directions of an image
would save more multiplications, but the transforms would cost more than that.

In float32 the error of a dense block is 1.3 to 1.7 times that of direct convolutions; for a network it is less than
twice. Errors are relative to the largest value in a tile. So errors of single huge values, and NaN or infinity, spread
over rows.
"""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .layout import is_channels_last

ROWS_OUT, KERNEL = 4, 3
ROWS_IN = ROWS_OUT + KERNEL - 1
POINTS = (0, 1, -1, 0.5, -2)  # and infinity: where polynomials are evaluated; chosen for small rounding errors
STRIP = 4000  # pixels of a strip per thread: with fewer, convolutions are slower; with more, tiles leave the cache
MIN_MULTIPLICATIONS, MAX_FILLED = 1.35e8, 0.1  # below the first, or with more padded rows, direct is faster
TRANSFORMS = 350  # cost of transforming one pixel of one channel, in multiplications


def _matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """IN (6, 6), OUT (4, 6) and FILTER (6, 3).

    The product of two polynomials is determined by its values at six points: six multiplications. For a fixed second
    polynomial (the kernel), this is a linear map of the first, and its transpose is a convolution. Evaluating the
    output's polynomial becomes OUT, evaluating the kernel's FILTER, and computing coefficients from values IN.
    """
    others = [[point for point in POINTS if point != own] for own in POINTS]
    into = [[*_with_roots(roots), 0.] for roots in others] + [_with_roots(POINTS)]
    out = [[point**i for i in range(ROWS_OUT)] for point in POINTS] + [[0.] * (ROWS_OUT - 1) + [1.]]
    # the entries of IN and OUT are exact in float32 (sums of few powers of two); all divisions are in FILTER
    filters = [[own**i / math.prod(own - other for other in roots) for i in range(KERNEL)]
               for own, roots in zip(POINTS, others, strict=True)] + [[0.] * (KERNEL - 1) + [1.]]
    into, out, filters = (torch.tensor(matrix, dtype=dtype, device='cpu') for matrix in (into, out, filters))
    return into, out.T.contiguous(), filters


def _with_roots(roots):
    """Coefficients of the polynomial with these roots, constant term first, leading coefficient 1."""
    coefficients = [1.]
    for root in roots:
        coefficients = [higher - root * own for higher, own in zip([0., *coefficients], [*coefficients, 0.],
                                                                   strict=True)]
    return coefficients


MATRICES = {dtype: _matrices(dtype) for dtype in (torch.float32, torch.float64)}


class WinogradConvs:
    """Does what :class:`DirectConvs` does, for channels-last features on a CPU.

    A part is (4 T + 2, N, W, C), rows first, with T = H / 4 rounded up: a row of zeros above the image, and one or more
    below. Convolutions run over strips of tiles that stay in the cache between transforms and products.

    Args:
        x: Input of the dense block, (N, C, H, W).
    """

    def __init__(self, x: torch.Tensor):
        self.n, _, self.h, self.w = x.shape
        self.num_tiles = -(-self.h // ROWS_OUT)
        step = -(-self.num_tiles // max(1, x[:, 0].numel() // (STRIP * torch.get_num_threads())))
        self.strips = [slice(t, min(t + step, self.num_tiles)) for t in range(0, self.num_tiles, step)]
        self.into, self.out, self.filter = MATRICES[x.dtype]

    @staticmethod
    def pays(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> bool:
        """Whether this is faster than direct convolutions for a dense block, according to measurements.

        With few multiplications, the overhead of the transforms dominates, more so with more threads (one and two were
        measured). Rows that only pad the last tile cost as much as others. GPU libraries choose their algorithms
        themselves, bf16 is not precise enough, and compilers and tracers would apply the choice for one size to all.
        """
        if (x.device.type != 'cpu' or x.dtype != torch.float32 or torch.compiler.is_compiling()
                or torch.jit.is_tracing() or not all(map(is_channels_last, weights))):
            return False
        saved = sum(weight.numel() for weight in weights) - TRANSFORMS * weights[-1].shape[1]
        saved *= x[:, 0].numel() / torch.get_num_threads()**2
        return saved >= MIN_MULTIPLICATIONS and -x.shape[2] % ROWS_OUT <= MAX_FILLED * x.shape[2]

    def part(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (4 T + 2, N, W, C)."""
        part = self._empty_part(x, x.shape[1])
        part[1:self.h + 1] = x.permute(2, 0, 3, 1)
        return part

    def gradient(self, grad: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W) -> rows (4 T, N, W, K)."""
        rows = self._empty_rows(grad, grad.shape[1])
        rows[:self.h] = grad.permute(2, 0, 3, 1)
        return rows

    def image(self, rows: torch.Tensor) -> torch.Tensor:
        """(4 T, N, W, K) -> (N, K, H, W), channels last; a copy, which the caller may change."""
        return rows[:self.h].permute(1, 3, 0, 2).clone(memory_format=torch.channels_last)

    def parts_beside(self, channels: int) -> 'TilesBeside':
        return TilesBeside(self._tiles, self.strips)

    def gradients_beside(self, channels: int) -> 'TilesBeside':
        return TilesBeside(self._gradient_tiles, self.strips, in_front=True)

    def conv(self, beside: 'TilesBeside', weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The rows of the output, (4 T, N, W, K)."""
        k = weight.shape[0]
        filters = self._filters(weight)
        bias = F.pad(bias, (k, (ROWS_IN - 2) * k))  # the second product is in each of the four rows once
        rows = weight.new_empty(ROWS_OUT * self.num_tiles, self.n, self.w, k)
        for strip, tiles in beside:
            products = F.conv2d(tiles, filters, bias, padding=(0, 1), groups=ROWS_IN)
            _times(self.out, _apart(products), rows[_rows(strip)])
        return rows

    def leaky_relu(self, y: torch.Tensor, slope: float) -> torch.Tensor:
        """Rows (4 T, N, W, C) of an output -> (4 T + 2, N, W, C)."""
        part = self._empty_part(y, y.shape[3])
        torch.ops.aten.leaky_relu.out(y[:self.h], slope, out=part[1:self.h + 1])
        return part

    def conv_backward(self, beside: 'TilesBeside', part, weight, wanted: tuple[bool, bool, bool]):
        """Gradients of (part without its zeros: rows (4 T, N, W, C), weight, bias); None if not wanted."""
        filters, of_filters, of_bias = self._filters(weight), None, None
        of_part = shared = None
        if wanted[0]:
            of_part = part.new_empty(ROWS_OUT * self.num_tiles, *part.shape[1:])
            shared = part.new_empty(2 * self.num_tiles, *part.shape[1:])  # rows of a tile that overlap its neighbours
        for strip, grads in beside:
            of_tiles, *others = torch.ops.aten.convolution_backward(
                grads, _together(self._tiles(part, strip)), filters, [len(filters)], [1, 1], [0, 1], [1, 1], False,
                [0, 0], ROWS_IN, wanted)
            of_filters, of_bias = (_plus(*pair) for pair in zip((of_filters, of_bias), others, strict=True))
            if wanted[0]:
                of_tiles = _apart(of_tiles)
                _times(self.into.T[1:-1], of_tiles, of_part[_rows(strip)])
                _times(self.into.T[::ROWS_IN - 1], of_tiles, shared[_rows(strip, 2)])
        if wanted[0]:
            of_part[ROWS_OUT - 1:-1:ROWS_OUT] += shared[2::2]
            of_part[ROWS_OUT::ROWS_OUT] += shared[1:-1:2]
        of_weight = None if of_filters is None else self._filters_backward(of_filters)
        return of_part, of_weight, None if of_bias is None else of_bias.view(ROWS_IN, -1)[1]

    def leaky_relu_backward(self, grad: torch.Tensor, part: torch.Tensor, slope: float) -> torch.Tensor:
        """Gradient of a part, as from :meth:`conv_backward` -> that of the output before its LeakyReLU."""
        rows = self._empty_rows(grad, grad.shape[3])
        torch.ops.aten.leaky_relu_backward.grad_input(grad[:self.h], part[1:self.h + 1], slope, True,
                                                      grad_input=rows[:self.h])
        return rows

    def _empty_part(self, like, channels):
        part = like.new_empty(ROWS_OUT * self.num_tiles + 2, self.n, self.w, channels)
        part[0].zero_()
        part[self.h + 1:].zero_()
        return part

    def _empty_rows(self, like, channels):
        rows = like.new_empty(ROWS_OUT * self.num_tiles, self.n, self.w, channels)
        rows[self.h:].zero_()
        return rows

    def _tiles(self, part, strip):
        """(4 T + 2, N, W, C) -> tiles of a strip, (t, 6, N, W, C)."""
        row = part.stride(0)
        tiles = strip.stop - strip.start, ROWS_IN, row
        rows = part.as_strided(tiles, (ROWS_OUT * row, row, 1), ROWS_OUT * strip.start * row)
        return _times(self.into, rows).view(-1, ROWS_IN, *part.shape[1:])

    def _gradient_tiles(self, rows, strip):
        """(4 T, N, W, K) -> tiles of a strip, (t, 6, N, W, K)."""
        tiles = rows[_rows(strip)].view(strip.stop - strip.start, ROWS_OUT, -1)
        return _times(self.out.T, tiles).view(-1, ROWS_IN, *rows.shape[1:])

    def _filters(self, weight):
        """(K, C, 3, 3) -> (6 K, C, 1, 3), channels last."""
        k, c = weight.shape[:2]
        filters = torch.mm(self.filter, weight.permute(2, 0, 3, 1).reshape(KERNEL, -1))
        return filters.view(ROWS_IN * k, 1, KERNEL, c).permute(0, 3, 1, 2)

    def _filters_backward(self, grad):
        """(6 K, C, 1, 3) -> (K, C, 3, 3), channels last."""
        c = grad.shape[1]
        grad = grad.permute(0, 2, 3, 1).reshape(ROWS_IN, -1, KERNEL * c).transpose(0, 1)
        return _times(self.filter.T, grad).view(-1, KERNEL, KERNEL, c).permute(0, 3, 1, 2)


class TilesBeside:
    """Collects tiles of parts that are added one by one, strip by strip, for convolutions with six groups.

    Args:
        transform: (part, strip) -> tiles (t, 6, N, W, C).
        strips: Slices of tiles.
        in_front: Put each part before the previous one. Default: False, after it.

    Attributes:
        parts: The added parts, in the order of their channels; empty with `in_front`, where backward needs none.
    """

    def __init__(self, transform, strips: Sequence[slice], in_front: bool = False):
        self.transform, self.strips, self.in_front = transform, strips, in_front
        self.parts, self.part, self.together = [], None, [None] * len(strips)

    def add(self, part: torch.Tensor) -> 'TilesBeside':
        """Add a part. Returns itself; iterate over it once before the next part is added."""
        self.part = part
        if not self.in_front:
            self.parts.append(part)
        return self

    def __iter__(self):
        """Pairs of a strip and the tiles of all parts in it, (N, 6 C, t, W)."""
        for i, strip in enumerate(self.strips):
            self.together[i] = _together(self.transform(self.part, strip), self.together[i], self.in_front)
            yield strip, self.together[i]


def _together(tiles, others=None, in_front=False):
    """(t, 6, N, W, C) beside (N, 6 D, t, W) -> (N, 6 (C + D), t, W), channels last."""
    t, _, n, w, c = tiles.shape
    pieces = [tiles.permute(2, 0, 3, 1, 4)]  # (N, t, W, 6, C)
    if others is not None:
        pieces.insert(len(pieces) if in_front else 0, others.permute(0, 2, 3, 1).view(n, t, w, ROWS_IN, -1))
    channels = [piece.shape[-1] for piece in pieces]
    together = tiles.new_empty(n, t, w, ROWS_IN, sum(channels))
    for place, piece in zip(together.split(channels, dim=-1), pieces, strict=True):
        place.copy_(piece)
    return together.flatten(3).permute(0, 3, 1, 2)


def _apart(together):
    """(N, 6 C, t, W), channels last -> (t, 6, N, W, C)."""
    n, channels, t, w = together.shape
    together = together.permute(0, 2, 3, 1).reshape(n, t, w, ROWS_IN, channels // ROWS_IN)
    return together.permute(1, 3, 0, 2, 4).contiguous()


def _rows(strip, of_tile=ROWS_OUT):
    """Rows of a strip."""
    return slice(of_tile * strip.start, of_tile * strip.stop)


def _times(matrix, tiles, out=None):
    """Matrix (R, S) times each of (t, S, ...) -> (t, R, ...), or written to contiguous rows `out` (t R, ...)."""
    if out is not None:
        out = out.view(len(tiles), len(matrix), -1)
    return torch.bmm(matrix.expand(len(tiles), *matrix.shape), tiles.flatten(2), out=out)


def _plus(total, more):
    return more if total is None else total.add_(more)
