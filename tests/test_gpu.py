"""Check on a GPU (`make gpu`) that it gives the CPU's answers in float32 up to rounding."""

import numpy as np
import pytest
import torch

from dfnb import detectors
from dfnb.detectors import DETECTORS
from dfnb.models.clip import load
from dfnb.models.device import Pieces

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
LORA = {"seed": 0, "rank": 2, "alpha": 4, "dropout": 0.1, "blocks": 2, "epochs": 2, "batch": 16}


@pytest.fixture
def fast(clip, tmp_path, monkeypatch):
    """The checkpoint of the fixture `clip` on the GPU, with a separate cache."""
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "gpu"))
    return load(str(clip.folder))


def test_features_in_bfloat16_are_close_to_those_of_the_cpu(clip, fast, cued, tmp_path,
                                                            monkeypatch):
    assert fast.device.type == "cuda"
    assert (fast.frozen_dtype, clip.frozen_dtype) == ("bfloat16", "float32")
    features = fast.image_features(cued[0])
    monkeypatch.setenv("DFNB_CACHE", str(tmp_path / "cpu"))
    expected = clip.image_features(cued[0])
    assert np.abs(features - expected).max() < 0.03
    assert (features * expected).sum(axis=1).min() > 0.999


def test_a_detector_fitted_twice_gives_the_same_scores_to_the_bit(fast, cued):
    scores = [DETECTORS["lora"].fit(cued[0], cued[1], clip=fast, **LORA).score(cued[2])
              for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_a_detector_of_the_gpu_scores_alike_on_the_cpu(clip, fast, cued, tmp_path):
    detector = DETECTORS["lora"].fit(cued[0], cued[1], clip=fast, **LORA)
    detector.save(tmp_path / "saved")
    on_cpu = detectors.load(tmp_path / "saved", clip)
    np.testing.assert_allclose(on_cpu.score(cued[2]), detector.score(cued[2]), atol=0.05)


def test_pieces_are_halved_under_a_real_limit_of_memory(fast):
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 2**28
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    try:
        pieces = Pieces(64).of(
            np.arange(64), lambda rows: torch.empty(len(rows), 2**23, device="cuda"))
        with pytest.warns(UserWarning, match="do not fit into the GPU's memory"):
            sizes = [len(rows) for rows, _ in pieces]
        assert sum(sizes) == 64 and max(sizes) < 64 == 64 // max(sizes) * max(sizes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
