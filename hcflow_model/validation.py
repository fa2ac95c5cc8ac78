"""Validation and testing: several samples at several temperatures of every image, saved, measured, reported."""
import inspect
import math
from os import path as osp

import numpy as np
import torch
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from tqdm import tqdm

from hcflow_arch import InputError

from .bicubic import bicubic_resize
from .hcflow_metric import calculate_nll
from .sheets import draw_sheet

BICUBIC = 'bicubic'
LOWER_IS_BETTER = ('nll', 'calculate_lpips', 'calculate_niqe')


def temperature_label(temperature: float) -> str:
    """0.9 -> 't0.9', 1.0 -> 't1': how file names, logs and reports call a temperature."""
    return f't{temperature:g}'


def float_image(tensor: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) RGB in [0, 1] -> un-rounded (H, W, 3) BGR float64 in [0, 255]."""
    return tensor2img(tensor, out_type=np.float64, min_max=(0, 1)) * 255


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

    def __call__(self, values: dict, names: list[str]) -> dict[str, float]:
        """Compute the named metrics of `values`: 'img' and 'img2', un-rounded, in [0, 255], and so on; absent ones are
        None. A metric that compares with 'lq' sees 'img_of_lq', before it is cropped to the ground truth."""
        results = {}
        for name in names:
            kwargs = dict(self.opt[name])
            metric = METRIC_REGISTRY.get(kwargs.pop('type'))
            wanted = [key for key in inspect.signature(metric).parameters if key in values and key not in kwargs]
            missing = [key for key in wanted if values[key] is None]
            if missing:
                self._skip_once(name, missing)
                continue
            given = {key: values[key] for key in wanted}
            if 'lq' in given and 'img' in given:
                given['img'] = values['img_of_lq']
            takes_float = getattr(metric, 'takes_float', False)
            kwargs.update(given if takes_float else {key: _to_uint8(value) for key, value in given.items()})
            try:
                results[name] = float(metric(**kwargs))
            except (TypeError, AssertionError) as error:  # how BasicSR's metrics refuse options and shapes
                raise InputError(f'val.metrics.{name} {dict(self.opt[name])}: {error}') from error
            if math.isnan(results[name]):
                raise InputError(f'val.metrics.{name} {dict(self.opt[name])} gives nan; is the crop_border larger than '
                                 'the image?')
        return results

    def per_sample(self) -> list[str]:
        """Names of the metrics that are computed for every sample."""
        return [name for name in self.opt if not self._takes_samples(name)]

    def per_set(self) -> list[str]:
        """Names of the metrics that are computed over all samples of an image."""
        return [name for name in self.opt if self._takes_samples(name)]

    def _takes_samples(self, name):
        return 'samples' in inspect.signature(METRIC_REGISTRY.get(self.opt[name]['type'])).parameters

    def _skip_once(self, name, missing):
        if name not in self.skipped:
            self.skipped.add(name)
            what = {'img2': 'ground truth', 'samples': 'two or more samples'}.get(missing[0], missing[0])
            get_root_logger().warning(f'Metric {name} needs {what}, which is not there; it is left out.')


def _to_uint8(value):
    return value.round().astype(np.uint8) if isinstance(value, np.ndarray) else value


def validate(model, dataloader, current_iter, tb_logger, save_img: bool) -> None:
    """Sample, save and measure every image of a dataset; log and report the averages.

    Args:
        model (HCFlowModel): Whose network for testing is used; its `report` collects the results.
        dataloader: BasicSR's, with batch size 1.
        current_iter (int | str): Iteration, or the name of the test.
        tb_logger: Tensorboard writer or None.
        save_img (bool): Save every sample.
    """
    val_opt = model.opt['val']
    dataset_name = dataloader.dataset.opt['name']
    metrics = Metrics(val_opt.get('metrics'), model.__dict__.setdefault('skipped_metrics', set()))
    if not len(dataloader):
        raise InputError(f'Dataset {dataset_name} has no images.')
    model.report.start(dataset_name)
    pbar = tqdm(total=len(dataloader), unit='image', desc=dataset_name, disable=not val_opt.get('pbar', False))
    for index, data in enumerate(dataloader):
        name = osp.splitext(osp.basename(data.get('lq_path', data.get('gt_path'))[0]))[0]
        pbar.set_description(f'{dataset_name} {name}')
        try:
            _validate_image(model, data, index, name, dataset_name, metrics, current_iter, save_img)
        except InputError as error:
            raise InputError(f'Dataset {dataset_name}, image {name}: {error}') from error
        pbar.update()
    pbar.close()
    if model.is_train:
        _log_and_keep_best(model, dataset_name, current_iter, tb_logger)
    model.report.finish(dataset_name, model.checkpoint_path())


def _validate_image(model, data, index, name, dataset_name, metrics, current_iter, save_img):
    val_opt, scale = model.opt['val'], model.opt['scale']
    net = model.net_for_testing()
    model.feed_data(data)
    with torch.no_grad(), model.autocast('val'):
        case = model.prepare_case(net)
    lq, gt = case['lq'], case['gt']
    seed = val_opt.get('seed')
    generator = None if seed is None else torch.Generator().manual_seed(seed + index)
    values = {'img2': None if gt is None else float_image(gt), 'lq': float_image(lq), 'net': net, 'scale': scale,
              'samples': None}
    report = model.report

    def add(label, results, results_of_samples=None):
        for metric, value in results.items():
            report.add(dataset_name, name, label, metric, [value])
        for metric in (results_of_samples or [{}])[0]:
            report.add(dataset_name, name, label, metric, [r[metric] for r in results_of_samples])

    add('', case['results'])
    if gt is not None and model.has_likelihood:
        nll = calculate_nll(_to_uint8(values['img2']), _to_uint8(values['lq']), net, seed=(seed or 0) + index)
        add('', {'nll': nll})
    rows = {}
    if val_opt.get('bicubic', False):
        rows[BICUBIC] = [bicubic_resize(case['lq_for_bicubic'].float(), scale).clamp(0, 1).cpu()]
    with torch.no_grad(), model.autocast('val'):
        features = net.coarsest_features(lq)  # once for all samples
        for temperature in val_opt.get('temperatures', model.default_temperatures):
            num_samples = 1 if temperature == 0 else val_opt.get('num_samples', 1)  # at temperature 0 all are equal
            rows[temperature_label(temperature)] = [
                net.decode(lq, temperature=temperature, generator=generator, features=features).float().cpu()
                for _ in range(num_samples)]

    for label, samples in rows.items():
        whole = images = [float_image(sample) for sample in samples]
        if gt is not None:  # sizes that are no multiple of the scale were reflected out
            images = [image[:gt.shape[2], :gt.shape[3]] for image in whole]
            rows[label] = [sample[:, :, :gt.shape[2], :gt.shape[3]] for sample in samples]
        results = [metrics({**values, 'img': image, 'img_of_lq': image_of_lq}, metrics.per_sample())
                   for image, image_of_lq in zip(images, whole, strict=True)]
        if label == BICUBIC:
            add(label, {}, results)
            continue
        values['samples'] = images if len(images) > 1 else None
        add(label, metrics(values, metrics.per_set()) if label != temperature_label(0) else {}, results)
        if save_img:
            for i, image in enumerate(images):
                imwrite(_to_uint8(image), image_path(model.opt, dataset_name, name, f'{label}_{i + 1}', current_iter))
    if save_img:
        for what, image in case['images'].items():
            imwrite(_to_uint8(float_image(image)), image_path(model.opt, dataset_name, name, what, current_iter))
    if report.final and index < val_opt.get('sheets', 10):
        sheet = draw_sheet(case, rows, report.captions(dataset_name, name), scale)
        imwrite(sheet, image_path(model.opt, dataset_name, name, 'sheet', current_iter))


def image_path(opt: dict, dataset_name: str, name: str, what: str, current_iter: int | str) -> str:
    """Where BasicSR saves: in a folder per image while training, in one per dataset in tests."""
    folder = opt['path']['visualization']
    if opt['is_train']:
        return osp.join(folder, name, f'{name}_{what}_{current_iter}.png')
    suffix = opt['val'].get('suffix')
    return osp.join(folder, dataset_name, f'{name}_{what}_{suffix}.png' if suffix else f'{name}_{what}.png')


def _log_and_keep_best(model, dataset_name, current_iter, tb_logger):
    """Log the averages with their best values, to the log and to tensorboard, as BasicSR does."""
    best = model.__dict__.setdefault('best_metric_results', {}).setdefault(dataset_name, {})
    model.metric_results = {}
    for label, results in model.report.averages(dataset_name).items():
        if label == BICUBIC:
            continue
        for metric, value in results.items():
            key = f'{metric}_{label}' if label else metric
            model.metric_results[key] = value
            metric_opt = (model.opt['val'].get('metrics') or {}).get(metric, {'type': metric})
            better = metric_opt.get('better', 'lower' if metric_opt['type'] in LOWER_IS_BETTER else 'higher')
            best.setdefault(key, {'better': better, 'val': float('-inf' if better == 'higher' else 'inf'), 'iter': -1})
            model._update_best_metric_result(dataset_name, key, value, current_iter)
    model._log_validation_metric_values(current_iter, dataset_name, tb_logger)
