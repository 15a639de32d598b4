import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.sampling import SeedStreams, latents_for_seeds, to_uint8
from sida.sampling.seeds import class_rule_of


def test_streams_match_the_official_ones(golden):
    arrays, info = golden("generation/stacked_random_generator")
    streams = SeedStreams(info["seeds"])
    assert np.array_equal(streams.randn((3, 8, 8)), arrays["latents"])
    assert np.array_equal(streams.randint(10), arrays["class_idx_10"])
    assert np.array_equal(streams.randn((3, 8, 8)), arrays["second_randn"])
    wrapped = latents_for_seeds(arrays["wrap_seeds"], arrays["wrap_latents"].shape[1:])
    assert np.array_equal(wrapped, arrays["wrap_latents"])


@settings(max_examples=25, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**33), max_size=6), other=st.lists(st.integers(0, 2**33), max_size=6))
def test_a_row_depends_on_its_own_seed(seeds, other):
    together = latents_for_seeds(other + seeds, (1, 3, 3))
    assert torch.equal(together[len(other) :], latents_for_seeds(seeds, (1, 3, 3)))
    assert SeedStreams(seeds).randint(10).shape == (len(seeds),)


def test_quantisation_follows_the_official_table(golden):
    arrays, _ = golden("generation/uint8_quantisation")
    for name in ("q", "ramp"):
        values = torch.from_numpy(arrays[name])
        assert np.array_equal(to_uint8(values), arrays[f"{name}/uint8_f32"])
        assert np.array_equal(to_uint8(values.double()), arrays[f"{name}/uint8_f64"])
    assert np.array_equal(to_uint8(torch.from_numpy(arrays["roundtrip_float"])), arrays["roundtrip_uint8_f32"])
    assert np.array_equal(arrays["roundtrip_uint8_f32"], arrays["roundtrip_in"])


def test_not_a_number_becomes_black():
    assert to_uint8(torch.tensor([float("nan"), float("inf"), -float("inf")])).tolist() == [0, 255, 0]


def test_balanced_classes_come_in_turn_and_leave_the_other_draws_as_they_are():
    streams = {rule: SeedStreams(range(3, 11)) for rule in ("balanced", "uniform")}
    drawn = {rule: class_rule_of(4, rule, None, 8)(streams[rule], 0) for rule in streams}
    assert drawn["balanced"].tolist() == [3, 0, 1, 2, 3, 0, 1, 2]
    assert torch.equal(*(streams[rule].randn((2,)) for rule in streams))
