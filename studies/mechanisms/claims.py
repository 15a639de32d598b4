"""Claims on Fashion-MNIST: whether real images help where the teacher is weak."""

from sida.eval.claims import Claims, better, rows

CLAIMS = Claims("Fashion-MNIST at 28×28 with one small network, not about the papers' data sets")


@CLAIMS.claim("M-01", counterpart="C-61")
def m_01(evidence):
    """From a teacher of 10k images SiDA with weight 3 has a lower FD than SiD after equally many images."""
    sida, sid = rows(recipe="w3", teacher="t10"), rows(recipe="w0", teacher="t10")
    return better(evidence, sida, sid, "fd", equal_images=True, seeds=2, alike=["teacher"])
