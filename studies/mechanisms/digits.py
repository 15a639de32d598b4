"""Claims on digits: what a teacher's images do for SiD, and real images beside them."""

from eval.claims import Claims, better, rows

CLAIMS = Claims("8×8 digits with one small network, not about the papers' data sets")


@CLAIMS.claim("M-11", counterpart="C-61")
def m_11(evidence):
    """SiD's FD is lower from a teacher of 200k images than from one of 10k, and SiDA's is lower than SiD's from the
    latter.
    """
    sid = rows(recipe="digits-w0", teacher="d10")
    return [
        better(evidence, rows(recipe="digits-w0", teacher="d200"), sid, "fd", equal_images=True, seeds=4),
        better(evidence, rows(recipe="digits-w3", teacher="d10"), sid, "fd", equal_images=True, seeds=4),
    ]


@CLAIMS.claim("M-12")
def m_12(evidence):
    """From a teacher of 10k images the papers' weight 0.01 has a higher FD than weight 3 after equally many images."""
    strong, weak = (rows(recipe=f"digits-{weight}", teacher="d10") for weight in ("w3", "w0.01"))
    return better(evidence, strong, weak, "fd", equal_images=True, seeds=4)
