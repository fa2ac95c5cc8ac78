"""Export of a trained network to ONNX, checked against PyTorch."""
import copy
import logging
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hcflow_arch import HCFlowNet, InputError, __version__
from hcflow_model.images.original import digest
from hcflow_model.utils.files import write_bytes

from .onnx_net import DOWNSCALE, ENDING, NEEDED, OnnxFacts, import_onnxruntime, open_session, run
from .plain import Decode, Downscale
from .tile_size import memory_needed
from .tiling import size_multiple

OPSETS = range(17, 24)
SIZE = (2, 6, 10)  # of the LR images that a graph is traced with: batch, height, width
CHECKED_SIZES = ((1, 9, 5), (3, 7, 16))
TOLERANCE = {'float32': 1e-4, 'float16': 0.1}  # of the largest value; float16 depends on the network


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: The file.
        difference: Largest difference from PyTorch that was seen when it was checked.
    """
    path: Path
    difference: float


def export_onnx(net: HCFlowNet, path: str | os.PathLike, opset: int = 18, half: bool = False,
                overwrite: bool = False) -> list[Exported]:
    """Write a network as ONNX: NAME.onnx decodes, for rescaling NAME_downscale.onnx makes the small images.

    Batch, height and width are free. Metadata: see :class:`OnnxFacts`. Each graph is run by ONNX Runtime at other sizes
    than it was traced with, and compared with the network in PyTorch.

    Args:
        net: The network, which stays as it is.
        path: NAME.onnx.
        opset: Version of ONNX's operators, from 17. Default: 18.
        half: Feature nets and subnets in float16, all else and inputs and outputs in float32. Default: False.
        overwrite: Replace files that are there. Default: False.

    Raises:
        InputError: A wrong argument, missing packages, or a network that ONNX does not hold, such as one with a feature
            net of unusual operations.
    """
    path = Path(path)
    check_export(path, opset)
    graphs = {'decode': path}
    if net.task == 'rescaling':
        graphs['downscale'] = path.with_name(f'{path.stem}{DOWNSCALE}{ENDING}')
    there = [str(each) for each in graphs.values() if os.path.exists(each)]
    if there and not overwrite:
        raise InputError(f'{" and ".join(there)} exists; give another name, or replace it by --overwrite.')
    facts = OnnxFacts(
        graph='', task=net.task, scale=net.scale, quant_bins=net.quant_bins, temperature=net.temperature,
        latents=[[channels, height] for _, channels, height, _ in net.latent_shapes(torch.empty(1, 3, 1, 1))],
        precision='float16' if half else 'float32', digest=digest(net), size_multiple=size_multiple(net),
        bytes_per_pixel=memory_needed(net, 1, 1), hcflow=__version__)
    contents = {graph: _graph(net, facts._replace(graph=graph), opset) for graph in graphs}
    for graph, (content, _) in contents.items():
        write_bytes(graphs[graph], content)
    return [Exported(graphs[graph], difference) for graph, (_, difference) in contents.items()]


def check_export(path: Path, opset: int) -> None:
    """Refuse what can be seen before there is a network: a wrong name or opset, missing packages."""
    if path.suffix != ENDING or path.stem.endswith(DOWNSCALE):
        raise InputError(f'Output {path}: give a name that ends in {ENDING}, and not in {DOWNSCALE}{ENDING}.')
    if opset not in OPSETS:
        raise InputError(f'opset is {opset!r}; allowed are {OPSETS.start} to {OPSETS.stop - 1}.')
    try:
        import onnx  # noqa: F401  (torch.onnx needs both)
        import onnxscript  # noqa: F401
        import torch.onnx  # noqa: F401
    except ImportError as error:
        raise InputError(NEEDED) from error
    import_onnxruntime()


@torch.no_grad()
def _graph(net: HCFlowNet, facts: OnnxFacts, opset: int) -> tuple[bytes, float]:
    """The content of a file, and its largest difference from PyTorch."""
    module = (Decode if facts.graph == 'decode' else Downscale)(net, facts.precision == 'float16')
    model = _trace(module, facts, opset)
    axes = *_axes(facts), {0: 'batch', **_size(facts.scale if facts.graph == 'decode' else 1)}
    for value, names in zip((*model.graph.input, *model.graph.output), axes, strict=True):
        for axis, name in names.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:], model.metadata_props[:]  # shapes at the size that it was traced with
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]  # lines of code, with the folders of this machine
    model.producer_name, model.producer_version = 'hcflow', __version__
    for key, value in facts.as_metadata().items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    return content, _difference(copy.deepcopy(net).cpu().eval(), facts, content)


def _trace(module, facts, opset):
    """An ONNX model. No operation of ours depends on the size, so a graph of one size, several times faster to make,
    holds for all; what is not ours is traced with sizes as variables."""
    inputs = _inputs(facts, SIZE)
    module(*inputs)  # what fails here is a bug
    ours = all(type(part).__module__.startswith(('hcflow_arch.', 'hcflow_model.', 'torch.nn.'))
               for part in module.modules())
    shapes = None if ours else _dynamic_shapes(facts)
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir', 'torch.export')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                module, tuple(inputs), dynamo=True, verbose=False, external_data=False, opset_version=opset,
                dynamic_shapes=shapes, input_names=facts.input_names(), output_names=[facts.output_name()])
    except torch.onnx.OnnxExporterError as error:
        raise InputError(f'PyTorch cannot export this network to ONNX ({_reason(error)}). Its feature net or coupling '
                         'has operations that ONNX lacks, or that depend on the size of the image.') from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    model = program.model_proto
    if model.opset_import[0].version != opset:
        raise InputError(f'PyTorch cannot export this network with opset {opset}; take '
                         f'{model.opset_import[0].version}.')
    return model


def _reason(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _size(factor):
    """Names of height and width, `factor` times those of the LR image."""
    return {axis: name if factor == 1 else f'{factor}*{name}' for axis, name in ((2, 'height'), (3, 'width'))}


def _factors(facts):
    """Of each input, its size in LR pixels."""
    return [facts.scale] if facts.graph == 'downscale' else [1, *(factor for _, factor in facts.latents)]


def _axes(facts):
    return [{0: 'batch', **_size(factor)} for factor in _factors(facts)]


def _dynamic_shapes(facts):
    batch, height, width = (torch.export.Dim(name, min=1) for name in ('batch', 'height', 'width'))
    first, *others = [{0: batch, 2: height if factor == 1 else factor * height,
                       3: width if factor == 1 else factor * width} for factor in _factors(facts)]
    return [first] if facts.graph == 'downscale' else [first, tuple(others)]


def _inputs(facts, size):
    """Random inputs of a graph for an LR image of (batch, height, width)."""
    n, h, w = size
    generator = torch.Generator().manual_seed(0)
    factor = _factors(facts)[0]
    noise = torch.rand(n, 3, h * factor + 2, w * factor + 2, generator=generator)
    first = F.avg_pool2d(noise, 3, 1)  # calm as photographs are: a flow may have no finite image of white noise
    latents = [] if facts.graph == 'downscale' else facts.latents
    return [first, *(torch.randn(n, channels, h * factor, w * factor, generator=generator)
                     for channels, factor in latents)]


def _difference(net, facts, content):
    """Largest difference between ONNX Runtime and PyTorch, at other sizes than the traced one."""
    session = open_session(content, ['CPUExecutionProvider'], 'The exported graph')
    largest, tolerance = 0., TOLERANCE[facts.precision]
    for size in CHECKED_SIZES:
        first, *latents = inputs = _inputs(facts, size)
        wanted = net.downscale(first) if facts.graph == 'downscale' else net.decode(first, latents, clamp=False)
        if not wanted.isfinite().all():
            raise InputError('The network makes values that are not finite of a test image, so no graph can be held '
                             'against it; nothing was written. hcflow info says whether its weights are sound.')
        try:
            difference = (run(session, inputs) - wanted).abs().max().item()
        except RuntimeError as error:  # a shape that was traced as a constant
            raise InputError(f'The exported graph fails at another size ({error}); nothing was written.') from error
        if not difference <= tolerance * max(1., wanted.abs().max().item()):
            raise InputError(f'The exported graph differs from PyTorch by {difference:.3g} on {size[0]} LR image(s) of '
                             f'{size[1]}x{size[2]}, more than {tolerance:g}; nothing was written.')
        largest = max(largest, difference)
    return largest
