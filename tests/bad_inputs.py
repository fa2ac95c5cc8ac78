"""The table of test_bad_input.py: what is wrong, and what the one line must say.

A row is (name, changes of the demo's options, words of the message, and where needed: command-line arguments, a
function that breaks files of the folder, and the command). The folders are those that `test_bad_input.py` makes.
"""
import copy
import io
import zipfile
from pathlib import Path

import torch
from helpers import REMOVED, SMALL_NET, change_options, demo_options, small_net

NAME = 'demo_HCFlow_x4'
MODELS = f'experiments/{NAME}/models'
LMDB = {'datasets.train.io_backend.type': 'lmdb', 'datasets.train.dataroot_gt': 'gt.lmdb',
        'datasets.train.dataroot_lq': 'lq.lmdb'}
RESCALING = {'model_type': 'HCFlowRescalingModel', 'network_g.task': 'rescaling', 'train.nll_opt': REMOVED}
TEST = {'train': REMOVED, 'logger': REMOVED, 'datasets.train': REMOVED}
PLAIN = {'model_type': 'SRModel', 'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1}, 'val': REMOVED,
         'train.nll_opt': REMOVED}


def write(path, content):
    """A step that writes a file."""
    return lambda: Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def save(path, content):
    return lambda: torch.save(content, path)


def cut(path, size):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:size])


def _state(**changes):
    return {'epoch': 0, 'iter': 5, 'optimizers': [], 'schedulers': [], **changes}


def _zip_of_text():
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('readme.txt', 'no checkpoint')
    return file.getvalue()


FILES = [  # more of them: test_read.py
    ('a key twice', {}, "the key 'scale' stands twice", [], write('opt.yml', 'name: a\nscale: 4\nscale: 2\n')),
    ('a date', {}, "'name' is datetime.date(2021, 1, 1)", [], write('opt.yml', 'name: 2021-01-01')),
    ('infinity', {'train.grad_clip_norm': float('inf')}, "'train.grad_clip_norm' is inf; it must be a finite number"),
    ('a large file', {}, 'it is no option file', [], write('opt.yml', 'a' * 1_000_001)),
]

GENERAL = [
    ('name empty', {'name': ''}, "'name' is ''; files are called by it"),
    ('name leads out', {'name': '..'}, "'name' is '..'; files are called by it"),
    ('name of a home', {'name': '/root'}, "'name' is '/root'; files are called by it"),
    ('name with a folder', {'name': 'a/b'}, "'name' is 'a/b'; files are called by it"),
    ('name too long', {'name': 'a' * 200}, 'of at most 150 bytes'),
    ('name is a number', {'name': 5}, "'name' is 5; it must be text"),
    ('seed below 0', {'manual_seed': -1}, "'manual_seed' is -1; it must be a whole number from 0"),
    ('seed too large', {'manual_seed': 2 ** 40}, 'it must be a whole number from 0 to'),
    ('plugin is relative', {'plugins': ['.evil']}, "plugins is ['.evil']; it must be a list of module names"),
    ('plugin with a syntax error', {'plugins': ['broken_of_a_test']}, "'broken_of_a_test' cannot be imported",
     [], write('broken_of_a_test.py', 'def\n')),
    ('no such network', {'network_g': {'type': 'os.system'}},
     "'network_g.type' is 'os.system', which is not registered"),
    ('path is a number', {'path.resume_state': 5}, "'path.resume_state' is 5; it must be text"),
    ('launcher without its environment', {}, '--launcher pytorch needs RANK', ['--launcher', 'pytorch']),
    ('slurm without its environment', {}, '--launcher slurm needs SLURM_', ['--launcher', 'slurm']),
    ('wandb that is not installed', {'logger.wandb.project': 'x', 'logger.use_tb_logger': True}, 'logger.wandb'),
    ('force_yml with nan', {}, "'train.optim_g.lr' is inf", ['--force_yml', 'train:optim_g:lr=!!float 1e999']),
]

DATASETS = [
    ('dataset name leads out', {'datasets.val.name': '../x'}, "'datasets.val.name' is '../x'; files are called by it"),
    ('no workers', {'datasets.train.num_worker_per_gpu': -1}, "num_worker_per_gpu' is -1; it must be 0 or more"),
    ('many workers', {'datasets.train.num_worker_per_gpu': 10 ** 6}, 'it must be 256 or less'),
    ('half a worker', {'datasets.train.num_worker_per_gpu': 0.5}, 'it must be a whole number'),
    ('no batch', {'datasets.train.batch_size_per_gpu': 0}, "batch_size_per_gpu' is 0; it must be 1 or more"),
    ('endless epochs', {'datasets.train.dataset_enlarge_ratio': 10 ** 9}, 'it must be 10000 or less'),
    ('unknown prefetching', {'datasets.train.prefetch_mode': 'gpu'}, "prefetch_mode' is 'gpu'; allowed are cpu"),
    ('misspelt key', {'datasets.train.dataset_enlarge_ratoi': 5}, "did you mean 'dataset_enlarge_ratio'"),
    ('root without a name', {'datasets.val.dataroot_gt': ''}, "'datasets.val.dataroot_gt': an empty name does not"),
    ('batch size empty', {'datasets.train.batch_size_per_gpu': None}, "datasets.train has no 'batch_size_per_gpu'"),
    ('no backend', {'datasets.val.io_backend': REMOVED}, "datasets.val has no 'io_backend'"),
    ('key of a backend', {'datasets.train.io_backend.typo': 1}, "Unknown option 'datasets.train.io_backend.typo'"),
    ('backend is a list', {'datasets.val.io_backend.type': ['disk']}, "type' is ['disk']; allowed are disk and lmdb"),
    ('template with a folder', {'datasets.val.filename_tmpl': 'x/{}'}, "is 'x/{}', which leads out of dataroot_lq"),
    ('template is a number', {'datasets.val.filename_tmpl': 4}, "filename_tmpl' is 4; it must be text"),
    ('template that reads attributes', {'datasets.val.filename_tmpl': '{0.__class__}'}, 'it must hold one {}'),
    ('unpaired images', {}, "'datasets.train': gt/c.png has no partner lq/c.png (1 of 3 have none)", [],
     write('gt/c.png', '')),
    ('LR image alone', {}, "'datasets.train': lq/c.png has no partner gt/c.png (1 of 3 have none)", [],
     write('lq/c.png', '')),
    ('HR and LR files of other endings', {}, 'has no partner lq/c.png (2 of 4 have none). There is lq/c.jpg: HR and LR '
     'files must have the same ending', [], lambda: [write(file, '')() for file in ('gt/c.png', 'lq/c.jpg')]),
    ('validation without a pair', {'datasets.val.filename_tmpl': '{}x4'},
     "'datasets.val': gt/a.png has no partner lq/ax4.png (2 of 2 have none)"),
    ('listed image without its partner', {'datasets.train.meta_info_file': 'meta.txt'},
     "'datasets.train': gt/c.png has no partner lq/c.png (1 of 2 have none)", [],
     lambda: [write(*file)() for file in (('meta.txt', 'a.png\nc.png\n'), ('gt/c.png', ''))]),
    ('fewer listed images than a batch', {'datasets.train.meta_info_file': 'meta.txt'}, 'has 1 images, fewer', [],
     write('meta.txt', 'a.png\n')),
    ('workers to keep, but none', {'datasets.train.persistent_workers': True}, "'datasets.train.persistent_workers' is "
     'true, but num_worker_per_gpu is 0'),
    ('workers of validation', {'datasets.val.persistent_workers': True, 'datasets.val.num_worker_per_gpu': 2},
     "'datasets.val.persistent_workers' is true, but validation has no workers"),
    ('meta_info leads out', {'datasets.train.meta_info_file': 'meta.txt'}, "'../opt.yml', which leads out of gt", [],
     write('meta.txt', 'a.png\n../opt.yml\n')),
    ('meta_info is absolute', {'datasets.train.meta_info_file': 'meta.txt'}, "'/etc/passwd', which leads out of gt", [],
     write('meta.txt', '/etc/passwd (8,8,3)\n')),
    ('meta_info of others', {'datasets.train.meta_info_file': 'meta.txt'}, "lists 'c.png', which is not in gt", [],
     write('meta.txt', 'a.png\nc.png\n')),
    ('meta_info is empty', {'datasets.train.meta_info_file': 'meta.txt'}, 'lists no images', [],
     write('meta.txt', '\n')),
    ('meta_info is no text', {'datasets.train.meta_info_file': 'gt/a.png'}, 'gt/a.png cannot be read: it is not text'),
    ('meta_info with tabs of others', {'datasets.val.meta_info_file': 'meta.txt'}, "lists 'c.png', which is not in gt",
     [], write('meta.txt', '\ufeffa.png\t(32,32,3)\r\n\n \r\nc.png\t(32,32,3)\r\n')),
    ('LMDB list of endless sizes', LMDB, "line 1 of meta_info.txt in gt.lmdb is 'a.png (999", [],
     write('gt.lmdb/meta_info.txt', f'a.png ({"9" * 5000},32,3) 1\nb.png (32,32,3) 1\n')),
    ('LMDB list is no text', LMDB, 'meta_info.txt cannot be read: it is not text', [],
     write('gt.lmdb/meta_info.txt', b'\x00\xff')),
    ('LMDB without its key', LMDB, "LMDB gt.lmdb has no 'c', which its meta_info.txt lists", [],
     write('gt.lmdb/meta_info.txt', 'a.png (32,32,3) 1\nc.png (32,32,3) 1\n')),
    ('LMDB without a key that is no UTF-8', LMDB, "LMDB gt.lmdb has no 'caf\\udce9', which its meta_info.txt lists", [],
     write('gt.lmdb/meta_info.txt', b'caf\xe9.png (32,32,3) 1\n')),
    ('LMDB of another size', LMDB, 'image a of gt.lmdb is 32x32; its meta_info.txt says 64x64', [],
     write('gt.lmdb/meta_info.txt', 'a.png (64,64,3) 1\nb.png (32,32,3) 1\n')),
    ('LMDB list of another form', LMDB, "line 1 of meta_info.txt in gt.lmdb is 'a.png 32 32'", [],
     write('gt.lmdb/meta_info.txt', 'a.png 32 32\n')),
    ('LMDB names twice', LMDB, 'lists a twice', [],
     write('gt.lmdb/meta_info.txt', 'a.png (32,32,3) 1\na.jpg (32,32,3) 1\n')),
    ('LMDB damaged', LMDB, "'datasets.train.dataroot_gt': LMDB gt.lmdb cannot be read (mdb_get: MDB_CORRUPTED", [],
     lambda: write('gt.lmdb/data.mdb', Path('gt.lmdb/data.mdb').read_bytes()[:8192] + b'\xff' * 4096)()),
    ('LMDB is text', LMDB, 'LMDB gt.lmdb cannot be opened', [], write('gt.lmdb/data.mdb', 'no database' * 1000)),
]


IMAGES = [
    ('validation without LR images', {'datasets.val.type': 'HROnlyDataset', 'datasets.val.dataroot_lq': REMOVED},
     'none of its 2 images can be used. The last: Super-resolution needs LR images'),
    ('validation without GT', {'datasets.val.type': 'SingleImageDataset', 'datasets.val.dataroot_gt': REMOVED},
     'gives no ground truth, which all of val.metrics need'),
    ('cut image', {}, 'Image gt/a.png is broken or no image (60 bytes)', [], cut('gt/a.png', 60)),
    ('image in a worker', {'datasets.train.num_worker_per_gpu': 1}, 'Image gt/a.png is broken', [],
     cut('gt/a.png', 60)),
    ('image while prefetching', {'datasets.train.prefetch_mode': 'cpu'}, 'Image gt/a.png is broken', [],
     cut('gt/a.png', 60)),
    ('HR alone', {**RESCALING, 'datasets.train.type': 'HROnlyDataset', 'datasets.train.dataroot_lq': REMOVED,
                  'train.lq_opt': {'type': 'MSELoss'}}, 'Image gt/a.png', [], cut('gt/a.png', 60)),
    ('a pair that is none', {}, 'Image lq/a.png (lq, 8x8) and gt/a.png (gt, 8x8): Scale mismatches', [],
     lambda: Path('gt/a.png').write_bytes(Path('lq/a.png').read_bytes())),
    ('patch larger than images', {'datasets.train.gt_size': 64}, 'is smaller than patch size'),
]

CHECKPOINTS = [
    ('checkpoint missing', {'path.pretrain_network_g': 'none.pth'}, 'none.pth does not exist'),
    ('checkpoint of a network missing', {**PLAIN, 'network_g': {'type': 'BasicVSR', 'spynet_path': 'none.pth'}},
     "'network_g.spynet_path': Checkpoint none.pth does not exist"),
    ('checkpoint is a folder', {'path.pretrain_network_g': 'gt'}, 'checkpoint gt is a folder; name a file, such as'),
    ('checkpoint is a zip', {'path.pretrain_network_g': 'a.pth'}, 'Checkpoint a.pth cannot be read', [],
     write('a.pth', _zip_of_text())),
    ('checkpoint is a state', {'path.pretrain_network_g': 'a.pth'}, 'a.pth is a training state, which holds no '
     'networks; take models/net_g_5.pth', [], save('a.pth', _state())),
    ('checkpoint of the other task', {'path.pretrain_network_g': 'a.pth'}, "is a checkpoint for task 'rescaling'", [],
     lambda: torch.save({'params': small_net(task='rescaling').state_dict()}, 'a.pth')),
    ('checkpoint in a plain model', {**PLAIN, 'path.pretrain_network_g': 'a.pth'}, 'a.pth does not fit MSRResNet', [],
     save('a.pth', {'params': {'x': torch.zeros(1)}})),
    ('checkpoint in what is archived', {'path.pretrain_network_g': f'{MODELS}/net_g_5.pth'}, 'moves away. Change'),
    ('data in what is archived', {**TEST, 'datasets.val.dataroot_gt': f'results/{NAME}/visualization'},
     'moves away. Change `name`', [], None, 'test'),
    ('state is a checkpoint', {'path.resume_state': f'{MODELS}/net_g_5.pth'}, 'is not a training state'),
    ('state without its networks', {'path.resume_state': 'a.state'}, 'net_g_7.pth', [],
     save('a.state', _state(iter=7))),
    ('state of another name', {'path.resume_state': 'experiments/other/training_states/7.state'}, 'belongs to another '
     f'run than this one, which is called {NAME}: training goes on in its own folder, and ', [],
     lambda: (Path('experiments/other/models').mkdir(parents=True), Path('experiments/other/training_states').mkdir(),
              write('experiments/other/models/net_g_7.pth', '')(),
              save('experiments/other/training_states/7.state', _state(iter=7))())),
    ('state of another run', {'path.resume_state': 'a.state'}, 'has 2 optimizers, this training 1', [],
     save('a.state', _state(optimizers=[{}, {}]))),
    ('state of no numbers', {'path.resume_state': 'a.state'}, 'its iter is no whole number', [],
     save('a.state', _state(iter='../../x'))),
    ('test of a checkpoint of another size', {**TEST, 'path.pretrain_network_g': 'a.pth'}, 'of another shape', [],
     lambda: torch.save({'params': small_net(num_feat=8).state_dict()}, 'a.pth'), 'test'),
]

TRAINING = [
    ('milestones of text', {'train.scheduler.milestones': ['a']}, "'train.scheduler.milestones'"),
    ('milestones missing', {'train.scheduler.milestones': REMOVED}, 'milestones'),
    ('periods missing', {'train.scheduler': {'type': 'CosineAnnealingRestartLR'}}, 'periods'),
    ('eps of text', {'train.optim_g.eps': 'x'}, "'train.optim_g.eps'"),
    ('scheduler type is a list', {'train.scheduler.type': ['MultiStepLR']}, "scheduler.type' is ['MultiStepLR']"),
    ('set by the command', {'auto_resume': True}, "'auto_resume' is set by the command, not by the option file"),
    ('port of text', {'dist_params.port': 'x'}, "'dist_params.port' is 'x'; it must be a whole number"),
    ('misspelt block', {'val': REMOVED, 'vaal': {'val_freq': 1}}, "Unknown option 'vaal' (did you mean 'val'?)"),
    ('misspelt seed', {'manual_sead': 1}, "Unknown option 'manual_sead' (did you mean 'manual_seed'?)"),
    ('negative gamma', {'train.scheduler.gamma': -1}, "'train.scheduler.gamma' is -1; it must not be below 0"),
    ('negative loss', {'train.nll_opt.loss_weight': -1}, "loss_weight' is -1; it must be 0 or more"),
    ('endless training', {'train.total_iter': 10 ** 12}, "'train.total_iter' is 1000000000000; it must be"),
    ('endless number', {'val.seed': 10 ** 30}, 'whole numbers of options go up to'),
    ('too many steps', {'network_g.num_flow_steps': 10 ** 9}, 'it must be a whole number from 1 to 4096'),
    ('negative border', {'val.metrics.psnr.crop_border': -1}, "crop_border' is -1; it must be 0 or more"),
    ('border of text', {'val.metrics.psnr.crop_border': 'x'}, "crop_border' is 'x'; it must be a whole number"),
    ('no border', {'val.metrics.psnr.crop_border': None}, "has no 'crop_border'"),
    ('wandb key', {'logger.wandb.projekt': 'x'}, "did you mean 'project'"),
    ('print_freq of a half', {'logger.print_freq': 0.5}, "'logger.print_freq' is 0.5"),
    ('suffix with a folder', {**TEST, 'val.suffix': '../x'}, "'val.suffix' is '../x'", [], None, 'test'),
    ('EMA of 1', {'train.ema_decay': 1}, "'train.ema_decay' is 1; the average would stay what training starts from"),
    ('no temperatures', {**RESCALING, 'val.temperatures': []}, "'val.temperatures' is empty, so nothing would be"),
    ('more parts than images', {'train.accumulate': 3}, "'train.accumulate' is 3; datasets.train.batch_size_per_gpu, "
     'which it splits, is 2'),
    ('images in another range', {'datasets.train.mean': [0.5, 0.5, 0.5]}, 'images are in [0, 1], so leave it out'),
    ('periods that end early', {'train.scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [10]},
                                'train.total_iter': 12}, "periods' is [10], 10 iterations in all; train.total_iter is"),
    ('periods without weights', {'train.scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [4, 8]}},
     "'train.scheduler.periods' is [4, 8] and restart_weights [1]; give one weight for each"),
    ('restarts without weights', {'train.scheduler.restarts': [0, 5]}, 'give one weight for each'),
    ('loss of every pixel', {'train.pixel_opt': {'type': 'L1Loss', 'reduction': 'none'}},
     "'train.pixel_opt' of type L1Loss gives values of shape (2, 3, 16, 16); it must be one number"),
    ('likelihood as pixel loss', {'train.pixel_opt': {'type': 'NLLLoss'}}, "'train.pixel_opt' of type NLLLoss cannot"),
    ('pixel loss as likelihood', {'train.nll_opt': {'type': 'L1Loss'}}, "'train.nll_opt' of type L1Loss cannot be"),
    ('test of nothing', {**TEST, 'datasets': {}}, "'datasets' names no dataset; give one", [], None, 'test'),
    ('metric without what it needs', {'val.metrics.psnr': {'type': 'calculate_psnr'}}, 'crop_border'),
]

ROWS = [(*row, *([], None, 'train')[len(row) - 3:])
        for row in (*FILES, *GENERAL, *DATASETS, *IMAGES, *CHECKPOINTS, *TRAINING)]


def options(changes):
    """The demo's options with a small network, on the small folders of the test."""
    opt = demo_options({'num_gpu': 0, 'datasets.train.gt_size': 16, 'datasets.train.batch_size_per_gpu': 2,
                        'datasets.train.num_worker_per_gpu': 0, 'datasets.train.dataset_enlarge_ratio': 1,
                        'network_g.start': REMOVED, 'train.total_iter': 1, 'logger.use_tb_logger': False,
                        **SMALL_NET})
    for block in opt['datasets'].values():
        block.update(dataroot_gt='gt', dataroot_lq='lq', io_backend={'type': 'disk'})
    return change_options(opt, copy.deepcopy(changes))
