"""Several segments of a video: what a peer says of each and of all, and its batch norms."""

from __future__ import annotations

import torch

from mml_lightning.backbones import tsm_resnet
from mml_lightning.backbones.peer import PeerOutput
from mml_lightning.training import segments


def test_a_video_is_the_mean_of_its_segments() -> None:
    output = PeerOutput({"label": torch.randn(6, 3)}, {"pooled": torch.randn(6, 5), "map": torch.randn(6, 4, 5, 2, 2)})
    apart = segments.apart(output, 2)
    found = segments.of_video(apart)
    torch.testing.assert_close(found.logits["label"], output.logits["label"].view(3, 2, 3).mean(1))
    torch.testing.assert_close(found.features["pooled"], output.features["pooled"].view(3, 2, 5).mean(1))
    assert torch.equal(found.features["map"], output.features["map"].view(3, 8, 5, 2, 2)), "one after the other"
    alone = segments.of_video(segments.apart(output, 1))
    for one, other in zip(output, alone, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one), "to the bit"
    parts = [PeerOutput({"label": part}, {}) for part in output.logits["label"].split(2)]
    assert torch.equal(segments.joined(parts).logits["label"], output.logits["label"])


def test_batch_norms_see_one_segment_at_a_time_where_asked() -> None:
    torch.manual_seed(0)
    peer = tsm_resnet("tiny", in_channels=3, num_classes={"label": 3}, width=8)
    clips = torch.randn(4, 4, 3, 32, 32)
    clips[1::2] += 5  # every second segment looks otherwise
    together, apart = (segments.forward(peer, clips, 2, one_by_one).logits["label"] for one_by_one in (False, True))
    assert together.shape == apart.shape == (2, 2, 3) and not torch.allclose(together, apart)
    peer.eval()
    together, apart = (segments.forward(peer, clips, 2, one_by_one).logits["label"] for one_by_one in (False, True))
    torch.testing.assert_close(together, apart)
