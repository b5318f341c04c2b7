"""The networks: sizes, gradients, what they see, and files of weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emsynth.errors import NetworkError, StoreError
from emsynth.streams import generator

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (extra train)")

from emsynth.networks.cgrdn import CGRDN, Size  # noqa: E402
from emsynth.networks.discriminator import PatchDiscriminator, with_noise  # noqa: E402
from emsynth.networks.weights import about_weights, load_weights, save_weights, trained_side  # noqa: E402

SMALL = {"layers": 2, "growth": 4, "width": 6, "groups": 2, "blocks": 2}
KINDS = pytest.mark.parametrize("inside", [0, 3], ids=["exact", "fourier"])


def network(inside=0, **changes):
    """A small one whose weights depend on nothing but its size; they are twice as large as usual, to matter more."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = CGRDN(Size(**SMALL | changes, fourier=inside))
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(2)
    return made.eval()


def noise(name, *shape):
    return torch.from_numpy(generator(0, 0, f"test networks {name}").standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize(("layers", "growth", "expected", "published"), [
    (4, 16, 1_158_785, 1.16), (4, 24, 1_763_457, 1.76), (4, 32, 2_478_721, 2.48), (5, 32, 3_396_737, 3.40),
    (6, 32, 4_462_209, 4.46), (7, 32, 5_675_137, 5.68), (8, 32, 7_035_521, 7.04), (9, 32, 8_543_361, 8.54)])
def test_as_many_parameters_as_the_papers(layers, growth, expected, published):
    """The authors' grid of sizes, in millions to two places."""
    with torch.device("meta"):
        found = CGRDN(Size(layers, growth)).parameters_in_all
    assert found == expected
    assert found / 1e6 == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize(("size", "message"), [
    ({"layers": 0}, r"network\.layers: 0 is not a whole number from 1 on"),
    ({"growth": 8.0}, r"network\.growth: 8\.0 is not"), ({"fourier": -1}, r"network\.fourier: -1 .* from 0 on"),
    ({"width": True}, r"network\.width: True is not")])
def test_a_size_that_is_none_is_refused(size, message):
    """With the number's name."""
    with pytest.raises(NetworkError, match=message):
        Size(**size)


@KINDS
def test_every_parameter_learns(inside):
    """Each gets a finite gradient that is not zero."""
    own = network(inside, width=8, growth=8)
    (own(noise("learn", 2, 1, 16, 16)) - noise("aim", 2, 1, 16, 16)).square().mean().backward()
    for name, weight in own.named_parameters():
        assert bool(torch.isfinite(weight.grad).all()), name
        assert float(weight.grad.abs().max()) > 0, name


@KINDS
@pytest.mark.parametrize("sides", [(2, 2), (2, 40), (10, 18), (22, 16), (34, 6)])
def test_any_even_sides(inside, sides):
    """Oblong ones, and ones with odd halves."""
    found = network(inside)(noise("sides", 2, 1, *sides))
    assert found.shape == (2, 1, *sides)
    assert bool(torch.isfinite(found).all())


@KINDS
def test_one_alone_is_one_among_many(inside):
    """A batch of four is four single images, to a few roundings of single precision."""
    own, batch = network(inside), noise("batch", 4, 1, 20, 14)
    with torch.no_grad():
        together, alone = own(batch), torch.cat([own(batch[n:n + 1]) for n in range(4)])
    assert float((together - alone).abs().max()) < 2e-6 * float(together.abs().max())


@KINDS
def test_how_far_it_sees(inside):
    """The exact network has a receptive field; with Fourier units every pixel sees all others."""
    image = noise("field", 1, 1, 64, 64).requires_grad_()
    network(inside, layers=1, groups=1, blocks=2)(image)[0, 0, 31, 33].backward()
    rows, cols = np.nonzero(image.grad[0, 0].numpy())
    if inside:
        assert len(rows) > 0.99 * 64**2
    else:
        # Two 3×3 convolutions at half the resolution, the 4×4 ones that lead there and back, and a 3×3 at each end.
        reach = 2 * 2 + 2 + 2 + 2 * 1
        assert reach - 3 <= max(abs(rows - 31).max(), abs(cols - 33).max()) <= reach


def test_the_fourier_unit_by_its_formula():
    """Orthonormal transforms, real and imaginary parts mixed by the same numbers at every frequency."""
    unit = network(3).groups[0].blocks[0][0]
    x = noise("unit", 1, 6, 7, 10)

    def mixed(conv, image):
        return np.einsum("oc,chw->ohw", conv.weight.detach().numpy()[:, :, 0, 0], image) + \
            conv.bias.detach().numpy()[:, None, None]

    spectrum = np.fft.rfft2(np.maximum(mixed(unit.enter, x[0].numpy()), 0), norm="ortho")
    parts = mixed(unit.second, np.maximum(mixed(unit.first, np.concatenate([spectrum.real, spectrum.imag])), 0))
    back = np.fft.irfft2(parts[:3] + 1j * parts[3:], s=(7, 10), norm="ortho")
    assert unit(x).detach().numpy()[0] == pytest.approx(x[0].numpy() + mixed(unit.leave, back), abs=1e-5)


@KINDS
def test_two_samples_are_learnt_by_heart(inside):
    """What can be learnt is learnt: in 80 steps the error falls to less than a hundredth."""
    own = network(inside, growth=4, width=12, groups=1).train()
    truth = torch.nn.functional.avg_pool2d(noise("heart", 2, 1, 22, 22), 7, 1) * 5
    distorted = truth + noise("heart distorted", *truth.shape) / 2
    optimiser = torch.optim.Adam(own.parameters(), 1e-2)
    errors = []
    for _ in range(80):
        optimiser.zero_grad()
        error = (own(distorted) - truth).square().mean()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert min(errors) < errors[0] / 100


def test_the_discriminators_size():
    """Parameters of the five convolutions and three normalisations, and one score per patch of 70 pixels."""
    own = PatchDiscriminator()
    assert sum(weight.numel() for weight in own.parameters()) == 2_764_609
    scores = own(noise("d a", 2, 1, 64, 40), noise("d b", 2, 1, 64, 40))
    assert scores.shape == (2, 1, 6, 3)
    scores.mean().backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in own.parameters())
    assert float(own.layers[0].weight.grad.abs().min(3)[0].max()) > 0


def test_a_score_sees_seventy_pixels():
    """And nothing beyond them."""
    own, image = PatchDiscriminator().eval().double(), noise("seventy", 1, 1, 128, 128).double().requires_grad_()
    own(image, image)[0, 0, 7, 7].backward()
    rows, cols = np.nonzero(image.grad[0, 0].numpy())
    assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == (70, 70)


def test_the_discriminators_noise():
    """Half of the samples get it, by 0.1 to 10 % of the truth's deviation, and the same generator gives the same."""
    truth = 3 * noise("noise truth", 200, 1, 16, 16)
    image = torch.zeros_like(truth)
    first, again = (with_noise(image, truth, torch.Generator().manual_seed(1)) for _ in range(2))
    assert bool((first == again).all())
    share = first.std((1, 2, 3)) / truth.std((1, 2, 3))
    given = share > 0
    assert 70 < int(given.sum()) < 130  # 100 ± 4.2 deviations
    assert float(share[given].min()) < 0.01
    assert 0.09 < float(share.max()) < 0.11
    assert float(share[given].mean()) == pytest.approx(0.0505, abs=0.012)


@KINDS
@pytest.mark.parametrize("half", [False, True])
def test_weights_come_back(tmp_path, inside, half):
    """Exactly in single precision; to a thousandth in half."""
    own = network(inside)
    path = save_weights(tmp_path / "a.safetensors", own, {"steps": 3}, half)
    found, about = load_weights(path)
    assert (found.size, about) == (own.size, {"steps": 3}) == about_weights(path)
    assert not found.training
    for name, weight in own.state_dict().items():
        back = found.state_dict()[name]
        assert back.dtype == torch.float32
        assert bool((back == weight).all()) or half
        assert torch.allclose(back, weight, rtol=1e-3, atol=1e-7)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def stored(path, header, tensors=None):
    """A file with a header of one's own."""
    metadata = {"emsynth": json.dumps(header)} if header is not None else {}
    path.write_bytes(safetensors.save(tensors or network().state_dict(), metadata))
    return path


HEADER = {"format": 1, "network": SMALL | {"fourier": 0}, "about": {}}


@pytest.mark.parametrize(("header", "message"), [
    (None, "safetensors file of something else"),
    (HEADER | {"format": 2}, "is of format 2, and this emsynth reads up to 1; pip install --upgrade emsynth"),
    (HEADER | {"format": "new"}, "its description cannot be read"),
    (HEADER | {"network": {"depth": 3}}, "its description cannot be read"),
    (HEADER | {"network": SMALL | {"layers": 0}}, "network.layers: 0 is not a whole number"),
    ({"format": 1}, "its description cannot be read"), ([1], "its description cannot be read"),
    (HEADER | {"network": SMALL | {"width": 8}}, "does not hold the weights of the network that it names"),
    (HEADER | {"network": SMALL | {"layers": 3}}, "does not hold the weights of the network that it names")])
def test_a_file_of_something_else_is_refused(tmp_path, header, message):
    """With the file's name and the way out."""
    path = stored(tmp_path / "odd.safetensors", header)
    with pytest.raises(NetworkError, match=message) as raised:
        load_weights(path)
    assert str(raised.value).count("odd.safetensors") == 1


@pytest.mark.parametrize("monster", [{"width": 200_000}, {"width": 10**12}, {"layers": 10**9}, {"groups": 10**30},
                                     {"growth": 10**30}])
def test_a_header_that_asks_for_a_monster_is_refused(tmp_path, monster):
    """Before memory or hours are asked for."""
    with pytest.raises(NetworkError, match="does not hold the weights"):
        load_weights(stored(tmp_path / "a.safetensors", HEADER | {"network": SMALL | monster}))


def test_the_state_of_a_training_is_not_a_network(tmp_path):
    """It lies beside the one that was meant."""
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(safetensors.save(network().state_dict(), {"emsynth training": "{}"}))
    with pytest.raises(NetworkError, match=r"is the state of a training; give weights\.safetensors beside it"):
        load_weights(path)


def test_weights_that_cannot_be_written(tmp_path):
    """Are said to be, with their place."""
    with pytest.raises(StoreError, match=r"absent/a\.safetensors: cannot be written \(No such file"):
        save_weights(tmp_path / "absent" / "a.safetensors", network())


@pytest.mark.parametrize(("patch", "side"), [(96, 96), (97, 98), (8, 128), ("64", 128), (None, 128)])
def test_the_side_of_a_training(patch, side):
    """An even one that a network can do with, or the usual one."""
    assert trained_side({"patch": patch}) == side


@pytest.mark.parametrize("kept", [0, 5, 100, -40])
def test_a_truncated_file_is_refused(tmp_path, kept):
    """Wherever it ends."""
    path = save_weights(tmp_path / "cut.safetensors", network())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(NetworkError, match=r"cut\.safetensors: is (no file of weights, or a )?damaged"):
        load_weights(path)


def test_a_file_that_is_not_there(tmp_path):
    """Is said to be missing."""
    with pytest.raises(NetworkError, match=r"absent\.safetensors: there is no such file"):
        load_weights(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(("half", "bad"), [(False, float("nan")), (False, float("inf")), (True, 1e5)])
def test_weights_that_are_not_finite_are_not_written(tmp_path, half, bad):
    """And the file that was there stays as it was."""
    own = network()
    path = save_weights(tmp_path / "a.safetensors", own)
    before = path.read_bytes()
    with torch.no_grad():
        own.fuse.bias[0] = bad
    with pytest.raises(NetworkError, match=r"weight fuse\.bias is not finite"):
        save_weights(path, own, half=half)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_that_are_not_finite_are_not_read(tmp_path):
    """Whoever wrote them."""
    tensors = network().state_dict()
    tensors["fuse.bias"] = torch.full_like(tensors["fuse.bias"], float("nan"))
    with pytest.raises(NetworkError, match="holds weights that are not finite"):
        load_weights(stored(tmp_path / "a.safetensors", HEADER, tensors))


@pytest.mark.parametrize("fourier", [0, 2])
def test_every_skip_is_there(fourier):
    """With all that is added silenced, blocks, groups and the whole hand on what they were given."""
    network = CGRDN(Size(layers=2, growth=4, width=8, groups=2, blocks=2, fourier=fourier))
    image = torch.randn(1, 1, 16, 12, generator=torch.Generator().manual_seed(1))
    features = network.down(network.enter(image))
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "fuse" in name or (".leave" in name and "groups" in name):
                weights.zero_()
        for group in network.groups:
            assert torch.equal(group(features), features)
            assert all(torch.equal(block(features), features) for block in group.blocks)
        assert torch.equal(network(image), image + network.leave(network.up(features)))
