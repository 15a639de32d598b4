"""`sida export --to hf` of a U-Net: the library's own class, with a pipeline that gives the images of `sida sample`."""

import numpy as np
import pytest
import torch

import sida
from plugins.diffusers.tests.pipelines import diffusers, write_pipeline
from sida.networks.official import find_source, import_network
from sida.sampling import one_step
from sida.workflow.cli import main
from tests.near import assert_near
from tests.plugins import needs
from tests.slow import quick_but


@needs("exchange")
@pytest.mark.parametrize("prediction", quick_but({"epsilon", "sample"}, ["epsilon", "v_prediction", "sample"]))
def test_a_network_of_diffusers_goes_back_as_its_own_class(prediction, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    write_pipeline(tmp_path / "ddpm", {"prediction_type": prediction}, num_class_embeds=4)
    network, folder = tmp_path / "student.safetensors", tmp_path / "hf"
    sampler = {"sampler": {"kind": "one_step", "init_sigma": 3.0}, "method": "sid"}
    import_network(find_source(str(tmp_path / "ddpm"))[0], network, null_label=True, metadata=sampler)
    assert main(["export", str(network), "--to", "hf", str(folder)]) == 0
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), custom_pipeline=str(folder), trust_remote_code=True)
    z, classes = torch.randn(5, 1, 8, 8), torch.tensor([2, 0, 1, 2, 0])
    with torch.no_grad():
        expected = one_step(sida.load(network).net, z, torch.eye(3)[classes], 3.0)
    found = pipe(5, output_type="float", latents=z, class_labels=classes.tolist()).images
    assert_near(found, expected)
    # Seeds and classes are those of the suite; a level may differ by rounding.
    expected = sida.load(network).sample(16, seed=3)
    for images in (pipe(16, seed=3, output_type="pt").images.numpy(), sida.load(folder).sample(16, seed=3)):
        assert np.abs(images.astype(int) - expected).max() <= 1
    assert np.asarray(pipe(2).images[1]).shape == (8, 8)
    for options in ({"num_inference_steps": 4}, {"output_type": "latent"}, {"generator": [torch.Generator()] * 3}):
        with pytest.raises(ValueError, match=next(iter(options))):
            pipe(batch_size=2, **options)
