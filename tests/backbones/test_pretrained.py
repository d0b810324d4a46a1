from __future__ import annotations

from urllib.error import URLError

import pytest
import torch

from mml_lightning.backbones import imagenet_weights, match_shift_names, resnet, tsm_resnet
from mml_lightning.backbones.pretrained import FILES
from mml_lightning.backbones.stem import convert_state


@pytest.fixture(scope="module")
def trunk_state():
    torch.manual_seed(0)
    state = resnet(18).state_dict()
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def weights_file(trunk_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(trunk_state, path)
    return path


def forbid_download(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)


@pytest.mark.parametrize("as_text", [True, False])
def test_local_file(weights_file, trunk_state, monkeypatch, as_text):
    forbid_download(monkeypatch, AssertionError("a local file needs no download"))
    state = imagenet_weights(18, str(weights_file) if as_text else weights_file)
    assert "fc.weight" not in state
    assert all(torch.equal(value, trunk_state[key]) for key, value in state.items())
    resnet(18).load_state_dict(state)


def test_into_a_shifted_flow_network(weights_file):
    net = tsm_resnet(18, in_channels=10, num_classes={"label": 3})
    state = convert_state(imagenet_weights(18, weights_file), "conv1.weight", net.in_channels)
    net.net.load_state_dict(match_shift_names(state, net.net.state_dict()))
    assert torch.equal(net.net.conv1.weight[:, 7], state["conv1.weight"][:, 0])


def test_counters_may_be_absent(trunk_state, tmp_path):
    old = {key: value for key, value in trunk_state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    resnet(18).load_state_dict(imagenet_weights(18, tmp_path / "old.pth"))


def test_download_checks_the_hash_and_loads_no_code(trunk_state, monkeypatch):
    calls = []

    def download(url, **options):
        calls.append((url, options))
        return dict(trunk_state)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    state = imagenet_weights(18)
    (url, options), *more = calls
    assert not more and url.endswith("/" + FILES[18])
    assert options["check_hash"] is True and options["weights_only"] is True
    assert torch.equal(state["conv1.weight"], trunk_state["conv1.weight"])


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value"), ConnectionResetError()])
def test_failed_download_is_one_line_with_advice(monkeypatch, error):
    forbid_download(monkeypatch, error)
    with pytest.raises(ValueError, match="give its path, or use init=scratch") as caught:
        imagenet_weights(50)
    assert FILES[50] in str(caught.value) and "\n" not in str(caught.value)


def test_file_names_carry_a_hash_torch_hub_can_check():
    assert all(torch.hub.HASH_REGEX.search(name) for name in FILES.values())


def test_tiny_has_none(monkeypatch):
    forbid_download(monkeypatch, AssertionError("nothing to download"))
    with pytest.raises(ValueError, match="init=scratch"):
        imagenet_weights("tiny")


def test_bad_files(weights_file, tmp_path):
    with pytest.raises(ValueError, match="no file"):
        imagenet_weights(18, tmp_path / "absent.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="download it again"):
        imagenet_weights(18, tmp_path / "page.pth")
    (tmp_path / "torn.pth").write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="download it again"):
        imagenet_weights(18, tmp_path / "torn.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no state dict"):
        imagenet_weights(18, tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not fit ResNet-34"):
        imagenet_weights(34, weights_file)
