"""Claims on Fashion-MNIST: whether real images help where the teacher is weak."""

from sida.eval.claims import Claims, better, rows

CLAIMS = Claims("Fashion-MNIST at 28×28 with one small network, not about the papers' data sets")
SIDA, SID = rows(recipe="w3", teacher="t10"), rows(recipe="w0", teacher="t10")


@CLAIMS.claim("M-01", counterpart="C-61")
def m_01(evidence):
    """From a teacher of 10k images SiDA with weight 3 has a lower FD than SiD."""
    return better(evidence, SIDA, SID, "fd", seeds=2, alike=["teacher"])


@CLAIMS.claim("M-01-end", counterpart="C-61")
def m_01_end(evidence):
    """From a teacher of 10k images SiDA with weight 3 has a lower FD than SiD. At the end of the trainings, after
    equally many images.
    """
    return better(evidence, SIDA, SID, "fd", equal_images=True, seeds=2, alike=["teacher"])


@CLAIMS.claim("M-02", counterpart="C-61", note="Written when the rows were known, which no page printed.")
def m_02(evidence):
    """From a teacher of 10k images SiDA with weight 3 has a lower FD than SiD to held-out images."""
    return better(evidence, SIDA, SID, "fd_heldout", seeds=2, alike=["teacher"])
