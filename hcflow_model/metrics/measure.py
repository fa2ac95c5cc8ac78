"""The metrics of an option file, each called with what it asks for, and errors told from bugs."""
import inspect
import math
import traceback

import cv2
import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import METRIC_REGISTRY

from hcflow_arch.errors import InputError

# what metrics raise of an image that is too small, flat or of another size; all else is a bug, and shows its traceback
DOES_NOT_FIT = (ValueError, ArithmeticError, AssertionError, RuntimeError, cv2.error)


class Metrics:
    """The metrics of `val.metrics`, each called with those of the available values that its signature names.

    Metrics that take `samples` are computed once for a set of samples, the others for every sample.

    Args:
        opt (dict | None): {name: {type: name in METRIC_REGISTRY, ...}}.
        skipped (set): Names of metrics whose absence was said already.
    """

    def __init__(self, opt, skipped: set):
        self.opt = opt or {}
        self.skipped = skipped

    def __call__(self, values: dict, names: list[str], failures: dict[str, str]) -> dict[str, float]:
        """Compute the named metrics of `values`: 'img' and 'img2', un-rounded, in [0, 255], and so on; absent ones are
        None. A metric that compares with 'lq' sees 'img_of_lq', before it is cropped to the ground truth. One that
        cannot be computed, such as NIQE of a small or flat image, is left out, and `failures` says why."""
        results = {}
        for name in names:
            kwargs = dict(self.opt[name])
            metric = METRIC_REGISTRY.get(kwargs.pop('type'))
            signature = inspect.signature(metric)
            if 'better' not in signature.parameters:
                kwargs.pop('better', None)
            wanted = [key for key in signature.parameters if key in values and key not in kwargs]
            missing = [key for key in wanted if values[key] is None]
            if missing:
                what = {'img2': 'ground truth', 'samples': 'two or more samples'}.get(missing[0], missing[0])
                self.skip_once(name, f'{what}, which is not there')
                continue
            given = {key: values[key] for key in wanted}
            if 'lq' in given and 'img' in given:
                given['img'] = values['img_of_lq']
            takes_float = getattr(metric, 'takes_float', False)
            kwargs.update(given if takes_float else {key: to_uint8(value) for key, value in given.items()})
            try:
                signature.bind(**kwargs)
            except TypeError as error:
                raise InputError(f'val.metrics.{name} {dict(self.opt[name])}: {error}') from error
            try:
                value = float(metric(**kwargs))
                problem = 'it is nan' if math.isnan(value) else None
            except torch.OutOfMemoryError:
                raise
            except DOES_NOT_FIT as error:
                problem = _what_and_where(error)
            if problem is None:
                results[name] = value
            else:
                height, width = (values['samples'][0] if values.get('img') is None else values['img']).shape[:2]
                failures[name] = (
                    f'val.metrics.{name} {dict(self.opt[name])} cannot be computed of {height}x{width} pixels '
                    f'({problem}); is what crop_border leaves too small, or flat?')
        return results

    def inputs(self) -> dict[str, list[str]]:
        """{name of a metric: names of its arguments}."""
        return {name: list(inspect.signature(METRIC_REGISTRY.get(block['type'])).parameters)
                for name, block in self.opt.items()}

    def per_sample(self) -> list[str]:
        """Names of the metrics that are computed for every sample."""
        return [name for name, inputs in self.inputs().items() if 'samples' not in inputs]

    def per_set(self) -> list[str]:
        """Names of the metrics that are computed over all samples of an image."""
        return [name for name, inputs in self.inputs().items() if 'samples' in inputs]

    def skip_once(self, name: str, what: str) -> None:
        """Say, the first time, that a metric is left out because it needs `what`."""
        if name not in self.skipped:
            self.skipped.add(name)
            get_root_logger().warning(f'Metric {name} needs {what}; it is left out.')


def _what_and_where(error):
    text = str(error).strip().split('\n')[0]
    if isinstance(error, InputError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__}: {text}, {frame.filename}:{frame.lineno}'


def to_uint8(value):
    """An image in [0, 255], rounded as it is saved; what is no array as it is."""
    return value.round().astype(np.uint8) if isinstance(value, np.ndarray) else value
