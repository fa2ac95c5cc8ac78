"""What a test leaves behind: a table in the log, metrics.csv and metrics.json in results/NAME/."""
import csv
import io
import json
from importlib import metadata
from os import path as osp
from pathlib import Path

import numpy as np
from basicsr.utils import get_root_logger

from hcflow_arch import InputError
from hcflow_arch.basicsr_import import basicsr_version
from hcflow_model.utils.files import file_hash, write_bytes
from hcflow_model.utils.tables import BICUBIC, aligned, json_safe, number

FIELDS = ('dataset', 'image', 'temperature', 'metric', 'mean', 'std', 'num_samples')


class ImageResults:
    """What was measured of one image, and what could not be.

    Args:
        dataset (str): Name of the test set.
        image (str): Name of the image.

    Attributes:
        rows (list[dict]): Of FIELDS.
        problems (list[str]): What was left out and why.
        failures (dict[str, str]): Metrics that could not be computed, and why.
        counts (list): (label, {name: value of every sample}): what was seen before clamping.
    """

    def __init__(self, dataset: str, image: str):
        self.dataset, self.image = dataset, image
        self.rows, self.problems, self.failures, self.counts = [], [], {}, []

    def add(self, label: str, metric: str, values: list[float]) -> None:
        """Add a metric over the samples. `label`: 't0.9', 'bicubic', or '' where no sample matters."""
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.
        self.rows.append(dict(zip(FIELDS, (self.dataset, self.image, label, metric, float(np.mean(values)), std,
                                           len(values)), strict=True)))

    def captions(self) -> dict[str, str]:
        """{label: 'psnr 28.31 ssim 0.812'}, for the sheet."""
        captions = {}
        for row in self.rows:
            text = f'{row["metric"]} {number(row["mean"])}'
            captions[row['temperature']] = f'{captions.get(row["temperature"], "")} {text}'.strip()
        return captions


class Report:
    """Collects results of images and writes them.

    `rows` holds dicts of FIELDS, `problems` {dataset: {image: what was left out and why}}.

    Args:
        opt (dict): The option file. `path.results_root`, else results/NAME below `root_path`, takes the files.
        final (bool): Write files and table: the last validation of a training run. Always on in tests.
    """

    def __init__(self, opt, final: bool = False):
        self.opt = opt
        self.final = final or not opt['is_train']
        self.rows = []
        self.problems = {}
        self.datasets = []

    def start(self, dataset: str) -> None:
        """Begin a dataset; what it had from an earlier validation goes."""
        self.rows = [row for row in self.rows if row['dataset'] != dataset]
        self.problems[dataset] = {}
        if dataset not in self.datasets:
            self.datasets.append(dataset)

    def add(self, results: ImageResults) -> None:
        """Add what is known of one image."""
        self.rows += results.rows
        problems = [*results.problems, *results.failures.values()]
        if problems:
            self.problems[results.dataset].setdefault(results.image, []).extend(problems)

    def averages(self, dataset: str) -> dict[str, dict[str, float]]:
        """{label: {metric: average over the images}} in the order they were added."""
        collected = {}
        for row in self.rows:
            if row['dataset'] == dataset:
                collected.setdefault(row['temperature'], {}).setdefault(row['metric'], []).append(row['mean'])
        return {label: {metric: float(np.mean(values)) for metric, values in results.items()}
                for label, results in collected.items()}

    def folder(self) -> Path:
        """Where the files are written."""
        return Path(self.opt['path'].get('results_root') or
                    osp.join(self.opt.get('root_path', '.'), 'results', self.opt['name']))

    def is_complete(self) -> bool:
        """Whether every validation or test set of the option file was begun."""
        return all(opt['name'] in self.datasets for phase, opt in self.opt['datasets'].items() if phase != 'train')

    def finish(self, dataset: str, checkpoint: str | None) -> None:
        """End a dataset: write the files anew; log the table after the last dataset."""
        if not self.final:
            return
        folder = self.folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'Cannot make the folder {folder}: {error.strerror or error}.') from error
        self._write_csv(folder / 'metrics.csv')
        self._write_json(folder / 'metrics.json', checkpoint)
        if self.is_complete():
            get_root_logger().info(f'Results of {self.opt["name"]} (also in {folder})\n{self.table()}')

    def table(self) -> str:
        """Aligned: a row for every test set and temperature, a column for every metric."""
        averages = {dataset: self.averages(dataset) for dataset in self.datasets}
        metrics = list(dict.fromkeys(
            metric for results in averages.values() for values in results.values() for metric in values))
        shared = [m for m in metrics if any(m in results.get('', {}) for results in averages.values())]
        metrics = [m for m in metrics if m not in shared] + shared
        lines = [['test set', 'temperature', *metrics]]
        for dataset, results in averages.items():
            for label, values in results.items():
                if label == '' and any(other and not other.startswith(BICUBIC) for other in results):
                    continue  # shown on the rows of the temperatures
                values = values if label.startswith(BICUBIC) else {**results.get('', {}), **values}
                cells = [number(values[metric]) if metric in values else '-' for metric in metrics]
                lines.append([dataset, label.removeprefix('t') or '-', *cells])
        return aligned(lines, num_texts=2)

    def _write_csv(self, path):
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, FIELDS)
        writer.writeheader()
        writer.writerows({**row, 'temperature': row['temperature'].removeprefix('t')} for row in self.rows)
        write_bytes(path, text.getvalue().encode())

    def _write_json(self, path, checkpoint):
        content = {
            'name': self.opt['name'],
            'option_file': self.opt.get('option_file'),
            'force_yml': self.opt.get('force_yml'),
            'checkpoint': checkpoint,
            'checkpoint_sha256': file_hash(checkpoint),
            'seed': (self.opt.get('val') or {}).get('seed'),
            'versions': versions(),
            'averages': {dataset: {label.removeprefix('t') or 'all': json_safe(results)
                                   for label, results in self.averages(dataset).items()} for dataset in self.datasets},
            'problems': {dataset: problems for dataset, problems in self.problems.items() if problems},
        }
        write_bytes(path, f'{json.dumps(content, indent=2, allow_nan=False)}\n'.encode())


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {'basicsr': basicsr_version(),
            **{name: metadata.version(name) for name in ('hcflow', 'torch', 'numpy', 'lpips')}}
