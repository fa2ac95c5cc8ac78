"""Exported networks give what PyTorch gives, at every size, and are run by the commands and in Python."""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, FEATURE_NET, perturb, random_image, small_net

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.flow.couplings import COUPLINGS, Coupling
from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.checkpoints.pretrained import save_pretrained
from hcflow_model.commands import main
from hcflow_model.images.files import read_image
from hcflow_model.inference.onnx_net import GPU, OnnxNet, providers

ort = pytest.importorskip('onnxruntime', reason="needs the packages of the extra 'onnx'")
onnx = pytest.importorskip('onnx', reason="needs the packages of the extra 'onnx'")
pytest.importorskip('onnxscript', reason="needs the packages of the extra 'onnx'")
from hcflow_model.inference.onnx_export import export_onnx  # noqa: E402

pytestmark = pytest.mark.slow
LR = read_image(DATA / 'val_lq_x4' / 'cat.png')[:20, :40].astype(np.float32) / 255
HR = read_image(DATA / 'val_gt' / 'cat.png')[:78, :121].astype(np.float32) / 255
SIZES = [(1, 1, 1), (2, 5, 7), (3, 24, 9)]
NETS = {'sr': perturb(small_net(4, temperature=0.3, num_flow_steps=1, num_cond_steps=1), 0.05).eval(),
        'rescaling': perturb(small_net(2, 'rescaling', num_cond_steps=1), 0.05).eval()}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """sr.onnx, rescaling.onnx and rescaling_downscale.onnx beside the checkpoints that they were made from."""
    folder = tmp_path_factory.mktemp('onnx')
    for task, net in NETS.items():
        save_pretrained(net, folder / f'{task}.pth')
        code = main(['export', '--weights', str(folder / f'{task}.pth'), '-o', str(folder / f'{task}.onnx')])
        assert code == 0
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def inputs_of(net, size, temperature=0.8):
    lq = torch.rand(size[0], 3, *size[1:])
    return [lq, *(temperature * torch.randn(shape) for shape in net.latent_shapes(lq))]


def run(path, *inputs):
    """What a program without this package does."""
    session = ort.InferenceSession(str(path))
    names = [each.name for each in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in
                                               zip(names, inputs, strict=True)})[0])


def check_decode(path, net, tolerance=1e-4, sizes=SIZES):
    for size in sizes:
        lq, *latents = inputs_of(net, size)
        with torch.no_grad():
            wanted = net.decode(lq, latents, clamp=False)
        assert (run(path, lq, *latents) - wanted).abs().max() < tolerance


def fails(capsys, *argv):
    """The one line of an error."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith('hcflow: error: ') and err.count('\n') == 1
    return err


@pytest.mark.parametrize('task', NETS)
def test_decode_is_that_of_pytorch(task):
    check_decode(f'{task}.onnx', NETS[task])


@pytest.mark.parametrize('size', SIZES)
def test_downscale_is_that_of_pytorch(size):
    hr = random_image(size[0], 3, 2 * size[1], 2 * size[2])
    with torch.no_grad():
        wanted = NETS['rescaling'].downscale(hr)
    assert (run('rescaling_downscale.onnx', hr) - wanted).abs().max() < 1e-4


def test_metadata_name_what_a_program_needs():
    session = ort.InferenceSession('sr.onnx')
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts['task'], facts['scale'], facts['temperature'], facts['quant_bins']) == ('sr', '4', '0.3', '64')
    shapes = {each.name: each.shape for each in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes['lq'] == ['batch', 3, 'height', 'width']
    assert shapes['hr'] == ['batch', 3, '4*height', '4*width']
    for level, (channels, factor) in enumerate(json.loads(facts['latents'])):
        lengths = ['height', 'width'] if factor == 1 else [f'{factor}*height', f'{factor}*width']
        assert shapes[f'latent_{level}'] == ['batch', channels, *lengths]


def test_constants_are_folded():
    """No inverse, and no arithmetic with weights alone; nothing of the machine it was made on."""
    model = onnx.load('sr.onnx')
    kinds = {node.op_type for node in model.graph.node}
    weights = {value.name for value in model.graph.initializer}
    assert not [node for node in model.graph.node if node.input and weights.issuperset(node.input)]
    assert b'.py' not in model.SerializeToString()
    assert kinds <= {'Conv', 'Concat', 'Slice', 'Mul', 'Add', 'Sub', 'Neg', 'Exp', 'Atan', 'Relu', 'LeakyRelu',
                     'DepthToSpace', 'Resize'}


def test_samples_are_those_of_pytorch():
    ours, theirs = HCFlowUpscaler('sr.pth', device='cpu'), HCFlowUpscaler('sr.onnx')
    ramp = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (20, 1))
    for image, tile in ((LR, None), (LR[..., 0], 16), (np.concatenate([LR, LR[..., :1]], axis=2), 16)):
        ours.tile = theirs.tile = tile
        drawn = [[*each.samples(image, 2, 0.7, seed=3), each(image, ramp), each(image, self_ensemble=True)]
                 for each in (ours, theirs)]
        for a, b in zip(*drawn, strict=True):
            assert a.shape == b.shape and np.abs(a - b).max() < 1e-4 and a.std() > 0.005
    samples = ours.samples(LR, 2)
    assert theirs.scores(LR, samples, 'lr_psnr') == ours.scores(LR, samples, 'lr_psnr')


def test_rescaling_pairs_with_pytorch(capsys):
    from_pytorch, from_onnx = HCFlowRescaler('rescaling.pth', device='cpu'), HCFlowRescaler('rescaling_downscale.onnx')
    small = from_pytorch.downscale(HR)
    assert np.abs(from_onnx.downscale(HR) - small).max() < 1e-4
    assert np.abs(from_onnx.restore(small, HR.shape[:2], seed=2)
                  - from_pytorch.restore(small, HR.shape[:2], seed=2)).max() < 1e-4
    for made, restored in (('onnx', 'pth'), ('pth', 'onnx')):  # a small image says which network made it
        assert main(['downscale', '-i', str(DATA / 'val_gt' / 'cat.png'), '-o', f'{made}.png', '--overwrite',
                     '--weights', f'rescaling.{made}']) == 0
        assert main(['restore', '-i', f'{made}.png', '-o', f'{restored}_back.png', '--overwrite',
                     '--weights', f'rescaling.{restored}', '--tile', '32']) == 0
    a, b = (read_image(f'{kind}_back.png').astype(int) for kind in ('onnx', 'pth'))
    assert np.abs(a - b).max() <= 1


def test_upscale_runs_it(capsys):
    for kind in ('pth', 'onnx'):
        assert main(['upscale', '-i', str(DATA / 'val_lq_x4' / 'cat.png'), '-o', kind, '--weights', f'sr.{kind}',
                     '--num_samples', '2', '--seed', '5', '--tile', '32', '--overwrite', '--device', 'cpu']) == 0
    for name in ('cat_1.png', 'cat_2.png'):
        a, b = (read_image(f'{kind}/{name}').astype(int) for kind in ('onnx', 'pth'))
        assert np.abs(a - b).max() <= 1 and (a != b).mean() < 0.001


def test_half_is_near(tmp_path):
    files = export_onnx(NETS['rescaling'], tmp_path / 'half.onnx', half=True)
    check_decode(tmp_path / 'half.onnx', NETS['rescaling'], 5e-3)
    for (path, difference), whole in zip(files, ('rescaling.onnx', 'rescaling_downscale.onnx'), strict=True):
        half, whole = (onnx.load(each) for each in (path, whole))
        assert 1e-6 < difference < 5e-3 and half.ByteSize() < whole.ByteSize()
        kinds = [{value.data_type for value in model.graph.initializer if len(value.dims) == 4 and value.dims[2] == 3}
                 for model in (half, whole)]
        assert onnx.TensorProto.FLOAT16 in kinds[0] and kinds[1] == {onnx.TensorProto.FLOAT}
    assert OnnxNet(tmp_path / 'half.onnx').facts.precision == 'float16'


def test_a_network_that_explodes(tmp_path):
    net = perturb(small_net(2))
    net.levels[0].main[1].actnorm.log_scale.data.fill_(-1e3)
    with pytest.raises(InputError, match='values that are not finite of a test image'):
        export_onnx(net, tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


def test_opset(tmp_path):
    net = perturb(small_net(2, num_flow_steps=1, num_cond_steps=1)).eval()
    export_onnx(net, tmp_path / 'a.onnx', 17)
    assert onnx.load(tmp_path / 'a.onnx').opset_import[0].version == 17
    check_decode(tmp_path / 'a.onnx', net)
    with pytest.raises(InputError, match='opset is 16; allowed are 17'):
        export_onnx(net, tmp_path / 'b.onnx', 16)


class TanhCoupling(Coupling):
    """The example of docs/extending.md."""

    num_outputs = 2

    def change(self, x, h):
        raise NotImplementedError

    def change_back(self, z, h):
        a, b = h.chunk(2, dim=1)
        return (z - b) * torch.exp(-torch.tanh(a))


def test_parts_of_others(tmp_path, monkeypatch):
    """A registered feature net that takes multiples of 4 alone, and a registered coupling."""
    monkeypatch.setitem(COUPLINGS, 'TanhCoupling', TanhCoupling)
    net = perturb(small_net(2, num_flow_steps=1, num_cond_steps=1, feature_net=FEATURE_NET, coupling='TanhCoupling'),
                  0.05).eval()
    export_onnx(net, tmp_path / 'a.onnx')
    check_decode(tmp_path / 'a.onnx', net)
    assert OnnxNet(tmp_path / 'a.onnx').facts.size_multiple == 4


class ByValue(torch.nn.Module):
    """A feature net that does something else for dark images."""

    def __init__(self, num_in_ch=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(num_in_ch, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.mean() < 0.1 else self.conv(1 - x)


class Broken(ByValue):

    def forward(self, x):
        return super().forward(x).no_such_method() if len(x) == 2 else super().forward(x)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    from basicsr.utils.registry import ARCH_REGISTRY
    for kind in (ByValue, Broken):
        monkeypatch.setitem(ARCH_REGISTRY._obj_map, kind.__name__, kind)
    small = {'num_flow_steps': 1, 'num_cond_steps': 1}
    with pytest.raises(InputError, match='PyTorch cannot export this network to ONNX .*Its feature net'):
        export_onnx(small_net(2, feature_net={'type': 'ByValue'}, **small), tmp_path / 'a.onnx')
    with pytest.raises(AttributeError, match='no_such_method'):  # a bug of theirs
        export_onnx(small_net(2, feature_net={'type': 'Broken'}, **small), tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


def test_wrong_output_names(capsys):
    assert 'ends in .onnx' in fails(capsys, 'export', '-o', 'a.pth', '--weights', 'gone.pth')
    assert '--overwrite' in fails(capsys, 'export', '-o', 'sr.onnx', '--weights', 'sr.pth')
    assert 'rescaling_downscale.onnx' in fails(capsys, 'export', '-o', 'rescaling.onnx', '--weights', 'rescaling.pth')


def test_wrong_files(capsys, tmp_path):
    content = Path('sr.onnx').read_bytes()
    (tmp_path / 'torn.onnx').write_bytes(content[:len(content) // 2])
    (tmp_path / 'text.onnx').write_text('no network')
    model = onnx.load('sr.onnx')
    for name, metadata in {'other': {}, 'damaged': {**OnnxNet('sr.onnx').facts.as_metadata(), 'latents': '[[6, 3]]'},
                           'inputs': {**OnnxNet('sr.onnx').facts.as_metadata(), 'graph': 'downscale'}}.items():
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / f'{name}.onnx')
    shutil.copy('rescaling.onnx', tmp_path / 'alone.onnx')
    wanted = {'torn': 'cannot be read by ONNX Runtime', 'text': 'cannot be read by ONNX Runtime',
              'other': 'not a network of hcflow export', 'damaged': 'latents', 'inputs': 'other inputs',
              'gone': 'does not exist', 'alone': "for task 'rescaling'"}
    for name, message in wanted.items():
        assert message in fails(capsys, 'upscale', '-i', DATA / 'val_lq_x4' / 'cat.png', '-o', 'out', '--weights',
                                tmp_path / f'{name}.onnx')
    with pytest.raises(InputError, match='alone_downscale.onnx does not exist'):
        HCFlowRescaler(tmp_path / 'alone.onnx').downscale(HR)
    shutil.copy('sr.onnx', tmp_path / 'alone_downscale.onnx')
    rescaler = HCFlowRescaler(tmp_path / 'alone.onnx')
    for _ in range(2):
        with pytest.raises(InputError, match='is not of the same network'):
            rescaler.downscale(HR)


def test_what_an_onnx_network_does_not_do(capsys):
    upscaler = HCFlowUpscaler('sr.onnx')
    with pytest.raises(InputError, match='has no latents and likelihoods'):
        upscaler.log_likelihood(np.repeat(np.repeat(LR, 4, 0), 4, 1), LR)
    with pytest.raises(InputError, match='is not saved as a checkpoint'):
        upscaler.save_pretrained('a.pth')
    with pytest.raises(InputError, match='has no gradients'):
        HCFlowRescaler('rescaling.onnx').downscale(HR, refine=1)
    image = DATA / 'val_lq_x4' / 'cat.png'
    for option in (['--amp', 'bf16'], ['--compile'], ['--num_samples', '2', '--keep', '1']):
        assert f'{option[-2] if option[-1] == "1" else option[0]} needs PyTorch' in fails(
            capsys, 'upscale', '-i', image, '-o', 'out', '--weights', 'sr.onnx', *option)
    for command in (['explore', '-i', image, '-o', 'out', '--weights', 'sr.onnx'], ['info', 'sr.onnx'],
                    ['export', '--weights', 'sr.onnx', '-o', 'again.onnx']):
        assert 'is an ONNX network' in fails(capsys, *command)


def test_devices():
    cpu = ['CPUExecutionProvider']
    assert providers('cpu', [GPU, *cpu]) == cpu == providers('auto', cpu)
    assert providers('auto', [GPU, *cpu])[0][0] == GPU and providers('cuda:1', [GPU])[0][1]['device_id'] == 1
    with pytest.raises(InputError, match='onnxruntime-gpu'):
        providers('cuda', cpu)
    with pytest.raises(InputError, match='auto, cpu, cuda'):
        providers('mps', cpu)


@pytest.mark.parametrize('package', ['onnx', 'onnxscript', 'onnxruntime'])
def test_not_installed(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'hcflow[onnx]'" in fails(capsys, 'export', '-o', 'new.onnx', '--weights', 'sr.pth')
    if package == 'onnxruntime':
        assert "pip install 'hcflow[onnx]'" in fails(capsys, 'upscale', '-i', DATA / 'val_lq_x4' / 'cat.png', '-o',
                                                     'out', '--weights', 'sr.onnx')


def test_full_size(tmp_path):
    net = perturb(HCFlowNet(4), 0.003).eval()
    export_onnx(net, tmp_path / 'a.onnx')
    check_decode(tmp_path / 'a.onnx', net, sizes=[(2, 9, 12)])
