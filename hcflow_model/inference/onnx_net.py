"""Networks in ONNX files, which `hcflow export` makes: ONNX Runtime runs them in place of PyTorch."""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from hcflow_arch import InputError
from hcflow_arch.checks import check_counts, check_image, check_latents, check_temperature, fit_to_scale
from hcflow_arch.hcflow_arch import SCALES, TASKS

ENDING, DOWNSCALE = '.onnx', '_downscale'
GRAPHS = ('decode', 'downscale')
GPU = 'CUDAExecutionProvider'
NEEDED = "ONNX files need the packages onnx, onnxscript and onnxruntime: pip install 'hcflow[onnx]'."


def is_onnx(weights: object) -> bool:
    """Whether `weights` is the name of an ONNX file."""
    return isinstance(weights, (str, os.PathLike)) and os.fspath(weights).endswith(ENDING)


class OnnxFacts(NamedTuple):
    """What the metadata of an ONNX file say; text as it is, all else as JSON.

    Attributes:
        graph: 'decode' or 'downscale'.
        task, scale, quant_bins, temperature: Of the network.
        latents: Channels of each level, and its size in LR pixels, finest first: [[6, 2], [21, 1]].
        precision: 'float32', or 'float16' for mixed precision.
        digest: Of the weights, as in the images that it makes small.
        size_multiple: What tiles start at multiples of.
        bytes_per_pixel: Estimate of the memory per LR pixel.
        hcflow: Version of this package that wrote the file.
    """
    graph: str
    task: str
    scale: int
    quant_bins: int
    temperature: float
    latents: list
    precision: str
    digest: str
    size_multiple: int
    bytes_per_pixel: int
    hcflow: str

    def as_metadata(self) -> dict[str, str]:
        """For ONNX, which takes text alone."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._asdict().items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: str | os.PathLike) -> 'OnnxFacts':
        """Read and check them; `path`: how messages call the file."""
        if 'hcflow' not in metadata:
            raise InputError(f'{path} is not a network of hcflow export; make it by that command.')
        try:
            facts = cls(**{key: metadata[key] if kind is str else json.loads(metadata[key])
                           for key, kind in cls.__annotations__.items()})
            facts._check()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f'{path} is damaged, or of another version: its metadata do not describe an HCFlow '
                             f'network ({str(error) or type(error).__name__}). Export it again.') from error
        return facts

    def _check(self):
        if self.graph not in GRAPHS or self.task not in TASKS or self.scale not in SCALES:
            raise ValueError(f'{self.task} {self.graph}, scale {self.scale}')
        if not 0 < self.bytes_per_pixel < 2**40:
            raise ValueError(f'bytes_per_pixel {self.bytes_per_pixel}')
        check_temperature('temperature', self.temperature)
        check_counts(size_multiple=self.size_multiple, **{
            f'channels of latent_{level}': channels for level, (channels, _) in enumerate(self.latents)})
        if [factor for _, factor in self.latents] != [self.scale >> i for i in range(1, self.scale.bit_length())]:
            raise ValueError(f'latents {self.latents}')

    def input_names(self) -> list[str]:
        """Of the graph, in their order."""
        return ['hr'] if self.graph == 'downscale' else ['lq', *(f'latent_{i}' for i in range(len(self.latents)))]

    def output_name(self) -> str:
        """Of the graph."""
        return 'lq' if self.graph == 'downscale' else 'hr'


class OnnxNet(torch.nn.Module):
    """What the sampler asks of an :class:`HCFlowNet`, by ONNX Runtime. What it returns is on the CPU, float32.

    Args:
        path: An ONNX file of `hcflow export`. Of a rescaling network either of its two files; the other one lies
            beside it and is opened when it is needed.
        task: 'sr' or 'rescaling' where only such a network will do. Default: None, either.
        device: 'cpu', 'cuda', 'cuda:1', or 'auto': CUDA where ONNX Runtime has it, else the CPU. Default: 'auto'.

    Raises:
        InputError: No such file, or one of another kind or task; ONNX Runtime is not installed or has no such device.
    """

    def __init__(self, path: str | os.PathLike, task: str | None = None, device: str | torch.device | None = 'auto'):
        super().__init__()
        self._device, self._sessions = 'auto' if device is None else str(device), {}
        path = Path(path)
        session, self.facts = self._open(path)
        self._sessions[self.facts.graph] = session
        stem = path.stem if self.facts.graph == 'decode' else path.stem.removesuffix(DOWNSCALE)
        self._paths = {'decode': path.with_name(f'{stem}{ENDING}'),
                       'downscale': path.with_name(f'{stem}{DOWNSCALE}{ENDING}'), self.facts.graph: path}
        self.scale, self.task, self.temperature = self.facts.scale, self.facts.task, self.facts.temperature
        self.digest = self.facts.digest
        if task not in (None, self.task):
            raise InputError(f'{path} is a network for task {self.task!r}; here one for {task!r} is needed.')

    def _open(self, path):
        onnxruntime = import_onnxruntime()
        if not os.path.isfile(path):
            raise InputError(f'ONNX file {path} does not exist. Check its path; hcflow export makes such files.')
        session = open_session(str(path), providers(self._device, onnxruntime.get_available_providers()), f'{path}')
        if self._device.startswith('cuda') and session.get_providers()[0] != GPU:
            raise InputError(f'device is {self._device!r}, but ONNX Runtime cannot use that GPU; take cpu.')
        facts = OnnxFacts.from_metadata(session.get_modelmeta().custom_metadata_map, path)
        if [each.name for each in session.get_inputs()] != facts.input_names():
            raise InputError(f'{path} is damaged: its graph has other inputs than its metadata say. Export it again.')
        return session, facts

    def _session(self, graph):
        if graph not in self._sessions:
            session, facts = self._open(self._paths[graph])
            if facts != self.facts._replace(graph=graph):
                raise InputError(f'{self._paths[graph]} is not of the same network as {self._paths[self.facts.graph]}; '
                                 'export it again.')
            self._sessions[graph] = session
        return self._sessions[graph]

    def latent_shapes(self, lq: torch.Tensor) -> list[tuple[int, int, int, int]]:
        """As :meth:`HCFlowNet.latent_shapes`."""
        n, _, h, w = lq.shape
        return [(n, channels, h * factor, w * factor) for channels, factor in self.facts.latents]

    def coarsest_features(self, lq: torch.Tensor) -> None:
        """None: the graph computes them for each sample."""
        check_image('lq', lq, check_range=True)

    def decode(self, lq: torch.Tensor, latents: Sequence[torch.Tensor], features: None = None,
               clamp: bool = True) -> torch.Tensor:
        """As :meth:`HCFlowNet.decode`; latents are always given."""
        check_image('lq', lq)
        check_latents(latents, self.latent_shapes(lq))
        hr = run(self._session('decode'), [lq, *latents])
        return hr.clamp(0, 1) if clamp else hr

    def downscale(self, gt: torch.Tensor) -> torch.Tensor:
        """As :meth:`HCFlowNet.downscale`."""
        check_image('gt', gt, check_range=True)
        return run(self._session('downscale'), [fit_to_scale(gt, self.scale)])

    def encode(self, *args, **kwargs):
        """Raises InputError."""
        raise InputError('An ONNX network has no latents and likelihoods of HR images; take the checkpoint that it was '
                         'exported from.')


def import_onnxruntime():
    """The package onnxruntime, or one clear error if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(NEEDED) from error
    return onnxruntime


def providers(device: str, available: Sequence[str]) -> list:
    """ONNX Runtime's name of a device, with its options."""
    name, _, index = device.partition(':')
    if name == 'cpu' or (name == 'auto' and GPU not in available):
        return ['CPUExecutionProvider']
    if name not in ('auto', 'cuda') or not (index or '0').isdecimal():
        raise InputError(f'device is {device!r}; an ONNX network runs on auto, cpu, cuda or cuda:1.')
    if GPU not in available:
        raise InputError(f'device is {device!r}, but this ONNX Runtime has no GPU; take cpu, or install '
                         'onnxruntime-gpu in place of onnxruntime.')
    # TF32 has too few bits for the inverse of a flow
    return [(GPU, {'device_id': int(index or 0), 'use_tf32': 0}), 'CPUExecutionProvider']


def open_session(model: str | bytes, devices: list, name: str):
    """A session of a file, or its content, with as many threads as PyTorch uses.

    Raises:
        InputError: It is broken, or this ONNX Runtime is too old for it; `name`: how the message calls it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    if os.environ.get('OMP_WAIT_POLICY', '').lower() == 'passive':
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        return onnxruntime.InferenceSession(model, options, providers=devices)
    except Exception as error:  # its classes have no common base; a broken file can raise any of them
        raise InputError(f'{name} cannot be read by ONNX Runtime {onnxruntime.__version__} ({_first_line(error)}). It '
                         'is broken, or its opset is too new.') from error


def run(session, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The output of a graph, by inputs in their order."""
    names = [each.name for each in session.get_inputs()]
    arrays = [value.detach().cpu().float().contiguous().numpy() for value in inputs]
    try:
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])
    except Exception as error:
        if 'allocate memory' in str(error) or 'bad_alloc' in str(error):
            raise MemoryError(_first_line(error)) from error
        raise RuntimeError(f'ONNX Runtime: {_first_line(error)}') from error


def _first_line(error):
    return str(error).strip().split('\n')[0]
