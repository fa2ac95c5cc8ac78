"""Validation and testing: several samples at several temperatures of every image, saved, measured, reported."""
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from basicsr.utils import get_root_logger
from tqdm import tqdm

from hcflow_arch import InputError
from hcflow_arch.checks import check_image
from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.files import write_image
from hcflow_model.inference.draw import DrawCounts, Sampler, check_seed, samples_of
from hcflow_model.metrics.hcflow_metric import calculate_nll, is_lower_better
from hcflow_model.metrics.measure import Metrics, to_uint8
from hcflow_model.utils.distributed import together
from hcflow_model.utils.files import file_name, printable
from hcflow_model.utils.memory import is_out_of_memory
from hcflow_model.utils.tables import BICUBIC, temperature_label

from .loader import images_of_rank
from .report import ImageResults
from .sheet import draw_sheet
from .storage import stored

FILE_BITS = 'bits_per_pixel'  # of the file of the small image, the more the larger


class Case(NamedTuple):
    """What is validated of an image, as a model's `prepare_case` returns it.

    Attributes:
        lq: Input of decode, (1, 3, h, w).
        gt: Ground truth, (1, 3, H, W), or None.
        lq_for_bicubic: LR image for the bicubic comparison.
        results: {metric: value} that do not depend on samples.
        images: {name: image (1, 3, H, W)} to save.
        difference: Whether the sheet shows the samples' difference to the ground truth.
    """
    lq: torch.Tensor
    gt: torch.Tensor | None
    lq_for_bicubic: torch.Tensor
    results: dict[str, float] = {}
    images: dict[str, torch.Tensor] = {}
    difference: bool = False


def float_image(tensor: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) RGB in [0, 1] -> un-rounded (H, W, 3) BGR in [0, 255]; rounded, it is what all of us save."""
    image = tensor.squeeze(0).float().clamp(0, 1).flip(0).permute(1, 2, 0) * 255  # in float32, as to_array has it
    return np.ascontiguousarray(image.cpu().numpy(), np.float64)


def validate(model, dataloader, current_iter, tb_logger, save_img: bool) -> None:
    """Sample, save and measure every image of a dataset; log and report the averages.

    In distributed runs each process takes its share of the images. Afterwards all have all results; rank 0 writes them.
    Images that cannot be used are left out and listed at the end.

    Args:
        model (HCFlowModel): Whose network for testing is used; its `report` collects the results.
        dataloader: BasicSR's, with batch size 1.
        current_iter (int | str): Iteration, or the name of the test.
        tb_logger: Tensorboard writer or None.
        save_img (bool): Save every sample.

    Raises:
        InputError: An empty dataset; in training, a metric that could be computed of no image; in tests, after the last
            dataset, that images were left out or measured in part.
    """
    dataset_name = dataloader.dataset.opt['name']
    if not len(dataloader):
        raise InputError(f'Dataset {dataset_name} has no images.')
    model.report.start(dataset_name)
    shares = together(model.opt, _validate_share, model, dataloader, current_iter, save_img)
    collected = {index: results for share in shares for index, results in share.items()}
    collected = [collected[index] for index in sorted(collected)]
    if model.is_train:
        _stop_if_a_metric_fits_no_image(dataset_name, collected)
    best = model.__dict__.setdefault('best_metric_results', {}).setdefault(dataset_name, {}) if model.is_train else {}
    _add_counts(collected, best)
    for results in collected:
        model.report.add(results)
    together(model.opt, _finish, model, dataset_name, len(collected), best, current_iter, tb_logger)
    if not model.is_train and model.report.is_complete():
        _fail_if_incomplete(model.report)


def _stop_if_a_metric_fits_no_image(dataset_name, collected):
    """It would be missing in every validation to come. A test goes on to its other datasets, and fails at its end."""
    first = collected[0]
    for metric, text in first.failures.items():
        if all(metric in results.failures for results in collected):
            raise InputError(f'Dataset {dataset_name}, image {first.image}: {text}')


def _validate_share(model, dataloader, current_iter, save_img):
    """{index: ImageResults} of this rank's images."""
    opt, val_opt, dataset_name = model.opt, model.opt['val'], dataloader.dataset.opt['name']
    metrics = Metrics(val_opt.get('metrics'), model.__dict__.setdefault('skipped_metrics', set()))
    loader = images_of_rank(dataloader, *((opt['rank'], opt['world_size']) if opt['dist'] else ()))
    sampler = Sampler(model.net_for_testing(), val_opt.get('tile'))
    collected = {}
    shown = val_opt.get('pbar', False) and opt['rank'] == 0
    pbar = tqdm(total=len(loader), unit='image', desc=dataset_name, disable=not shown)
    for index, data, fault in loader:
        name = loader.dataset.name(index, None if data is None else {key: value[0] for key, value in data.items()
                                                                     if key.endswith('_path')})
        pbar.set_description(f'{dataset_name} {name}')
        collected[index] = results = ImageResults(dataset_name, name)
        try:
            if fault is not None:
                results.problems.append(fault)
            else:
                _validate_image(model, sampler, data, index, results, metrics, current_iter, save_img)
        except InputError as error:
            raise InputError(f'Dataset {dataset_name}, image {name}: {error}') from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            results.problems.append('it needs more memory than there is; set val.tile.')
        pbar.update()
    pbar.close()
    return collected


def _validate_image(model, sampler, data, index, results, metrics, current_iter, save_img):
    val_opt, scale = model.opt['val'], model.opt['scale']
    tile, net = sampler.tile, sampler.net
    try:
        model.feed_data(data)
        with torch.no_grad(), model.autocast('val'):
            case = model.prepare_case(sampler)
        for key in ('lq', 'gt'):
            if getattr(case, key) is not None:
                check_image(key, getattr(case, key), check_range=True)
    except InputError as error:  # too small, sizes that do not belong together, pixels of float files
        results.problems.append(str(error))
        return
    lq, gt = case.lq, case.gt
    values = {'img2': None if gt is None else float_image(gt), 'lq': float_image(lq), 'net': net, 'scale': scale,
              'samples': None}
    for metric, value in case.results.items():
        results.add('', metric, [value])
    if tile and max(lq.shape[2:]) > tile and model.has_likelihood:
        metrics.skip_once('nll', f'the whole image at once, which is larger than val.tile = {tile}')
    elif gt is not None and model.has_likelihood:
        nll = calculate_nll(to_uint8(values['img2']), to_uint8(values['lq']), net, seed=val_opt.get('seed') or 0)
        if math.isfinite(nll):
            results.add('', 'nll', [nll])
        else:
            results.problems.append(f'its nll is {nll}; it is left out.')
    qualities = val_opt.get('compression')
    rows, files = {}, {}
    for small, guide in zip(stored(lq, qualities), stored(case.lq_for_bicubic, qualities), strict=True):
        if val_opt.get('bicubic', qualities is not None):
            rows[BICUBIC + small.suffix], files[BICUBIC + small.suffix] = {1: _bicubic(guide.image, scale)}, guide
        drawn = _draw_samples(model, sampler, small, results)
        rows.update(drawn)
        files.update(dict.fromkeys(drawn, small))

    def path_of(what):
        return image_path(model.opt, results.dataset, results.image, what, current_iter)

    for label, samples in rows.items():
        values['lq'] = float_image(lq if label.startswith(BICUBIC) else files[label].image)
        whole = images = {number: float_image(sample) for number, sample in samples.items()}
        if gt is not None:  # sizes that are no multiple of the scale were padded
            images = {number: image[:gt.shape[2], :gt.shape[3]] for number, image in whole.items()}
            rows[label] = {number: sample[:, :, :gt.shape[2], :gt.shape[3]] for number, sample in samples.items()}
        measured = [metrics({**values, 'img': image, 'img_of_lq': whole[number]}, metrics.per_sample(),
                            results.failures) for number, image in images.items()]
        # of the samples that were asked for, fewer can be left: no reason to say that a metric needs more of them
        may_differ = label.split('_')[0] not in (BICUBIC, temperature_label(0))
        if may_differ and len(images) >= min(2, val_opt.get('num_samples', 1)):
            values['samples'] = list(images.values()) if len(images) > 1 else None
            for metric, value in metrics(values, metrics.per_set(), results.failures).items():
                results.add(label, metric, [value])
        for metric in dict.fromkeys(metric for one in measured for metric in one):
            results.add(label, metric, [one[metric] for one in measured if metric in one])
        if qualities is not None:
            results.add(label, FILE_BITS, [files[label].bits])
        if save_img and not label.startswith(BICUBIC):
            for number, image in images.items():
                write_image(path_of(f'{label}_{number}'), to_uint8(image))
    if save_img:
        for what, image in case.images.items():
            write_image(path_of(what), to_uint8(float_image(image)))
    if model.report.final and index < val_opt.get('sheets', 10):
        shown = {label: list(samples.values()) for label, samples in rows.items()}
        if BICUBIC not in shown:
            shown[BICUBIC] = [_bicubic(case.lq_for_bicubic, scale)]
        write_image(path_of('sheet'), draw_sheet(lq, shown, scale, gt, results.captions(), case.difference))


def _bicubic(lq, scale):
    return bicubic_resize(lq.float(), scale).clamp(0, 1).cpu()


def _draw_samples(model, sampler, small, results):
    """{label: {number from 1: sample (1, 3, H, W) on the CPU}}; samples that stay broken are missing."""
    val_opt = model.opt['val']
    temperatures = val_opt.get('temperatures', model.default_temperatures)
    labels = {temperature: temperature_label(temperature) + small.suffix for temperature in temperatures}
    rows = {label: {} for label in labels.values()}
    seen = {label: {name: [] for name in DrawCounts._fields} for label in rows}
    samples = samples_of(temperatures, val_opt.get('num_samples', 1))
    with model.autocast('val'):
        drawn = sampler.draw_image(small.image, samples, check_seed(val_opt.get('seed'), 'val.seed'),
                                   val_opt.get('self_ensemble', False))
    for (temperature, number), (image, counts) in drawn.items():
        label = labels[temperature]
        for name, values in seen[label].items():
            values.append(getattr(counts, name))
        if counts.nonfinite == 0:
            rows[label][number] = image
            continue
        results.problems.append(
            f'sample {number} at temperature {temperature:g} has {counts.nonfinite} of '
            f'{image.shape[2] * image.shape[3]} pixels that are not finite, after {counts.draws} draws; it is '
            'neither saved nor measured.')
    results.counts += seen.items()
    return rows


def _add_counts(collected, best):
    """Count metrics where any sample is to be counted, and from then on: of all images, so that averages are right."""
    for name in DrawCounts._fields:
        seen = any(any(counts[name]) for results in collected for _, counts in results.counts)
        if seen or any(key.startswith(f'{name}_t') for key in best):
            for results in collected:
                for label, counts in results.counts:
                    results.add(label, name, counts[name])


def _finish(model, dataset_name, num_images, best, current_iter, tb_logger):
    """Keep the best values; on rank 0, log what was left out and write the report."""
    if model.is_train:
        _log_and_keep_best(model, dataset_name, best, current_iter, tb_logger)
    if model.opt['rank'] != 0:
        return
    problems = model.report.problems[dataset_name]
    if problems:
        lines = [f'\n  {image}: {printable(problem)}' for image, texts in problems.items() for problem in texts]
        get_root_logger().warning(f'Dataset {dataset_name}: {len(problems)} of {num_images} images left out or '
                                  f'measured in part:{"".join(lines)}')
    model.report.finish(dataset_name, model.checkpoint_path())


def _fail_if_incomplete(report):
    """The test as a whole failed where images were left out; all others are done by now."""
    incomplete = {dataset: len(problems) for dataset, problems in report.problems.items() if problems}
    if incomplete:
        counts = ', '.join(f'{count} in {dataset}' for dataset, count in incomplete.items())
        raise InputError(f'{sum(incomplete.values())} image(s) left out or measured in part ({counts}): see the '
                         f'warnings above, or problems in {report.folder() / "metrics.json"}. All others are done.')


def image_path(opt: dict, dataset_name: str, name: str, what: str, current_iter: int | str) -> Path:
    """Where BasicSR saves: in a folder per image while training, in one per dataset in tests. With several validation
    sets, whose images may have equal names, training has a folder for each as well."""
    folder = Path(opt['path']['visualization'])
    is_train, suffix = opt['is_train'], opt['val'].get('suffix')
    if not is_train or len(opt['datasets'].keys() - {'train'}) > 1:
        folder /= file_name(dataset_name)
    if is_train:
        folder, suffix = folder / file_name(name), current_iter
    return folder / file_name(name, f'_{what}_{suffix}.png' if suffix else f'_{what}.png')


def _log_and_keep_best(model, dataset_name, best, current_iter, tb_logger):
    """Log the averages with their best values, to the log and to tensorboard, as BasicSR does."""
    model.metric_results = {}
    for label, results in model.report.averages(dataset_name).items():
        if label.startswith(BICUBIC):
            continue
        for metric, value in results.items():
            key = f'{metric}_{label}' if label else metric
            model.metric_results[key] = value
            block = (model.opt['val'].get('metrics') or {}).get(metric)
            is_lower = is_lower_better(block['type']) if block else metric in ('nll', FILE_BITS, *DrawCounts._fields)
            better = (block or {}).get('better') or ('lower' if is_lower else 'higher')
            best.setdefault(key, {'better': better, 'val': float('-inf' if better == 'higher' else 'inf'), 'iter': -1})
            model._update_best_metric_result(dataset_name, key, value, current_iter)
    model._log_validation_metric_values(current_iter, dataset_name, tb_logger)
