"""Claims of the preset `gpu`, on Fashion-MNIST."""

from sida.eval.claims import Claims, better, load_retraining, number, ratio, rows

CLAIMS = Claims(
    "Fashion-MNIST, not about the papers' data sets",
    retraining=load_retraining("fashion"),
)
TEACHER, SID, SIDA, SID2A = (rows(method=name) for name in ("teacher", "sid", "sida", "sid2a"))


@CLAIMS.claim("L-01", counterpart="C-27")
def l_01(evidence):
    """After equally many images and with the same α SiDA has a lower FD to held-out images than SiD."""
    return better(evidence, SIDA, SID, "fd_heldout", equal_images=True, alike=["teacher", "alpha"])


@CLAIMS.claim("L-02", counterpart="C-14, C-16")
def l_02(evidence):
    """SiDA in one step has a lower FD to held-out images than its teacher at NFE 35 (18 Heun steps)."""
    return better(evidence, SIDA, TEACHER, "fd_heldout", alike=["teacher"])


@CLAIMS.claim(
    "L-03", counterpart="C-29, C-45", note="SiD2A's generator is the best of a curve that begins with its start."
)
def l_03(evidence):
    """SiD2A has a lower FD to held-out images than the SiD generator it starts from."""
    return better(evidence, SID2A, SID, "fd_heldout")


@CLAIMS.claim("L-04")
def l_04(evidence):
    """SiDA draws the requested class more often than its teacher."""
    return better(evidence, SIDA, TEACHER, "accuracy", direction="higher", alike=["teacher"])


@CLAIMS.claim("L-05")
def l_05(evidence):
    """SiDA's images are no nearer to training images than held-out images are."""
    return ratio(evidence, SIDA, number(0.5, "held-out images, by definition"), "copies", high=1.1)
