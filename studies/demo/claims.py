"""Claims about the demo's generators. FD: Fréchet distance; NFE: function evaluations."""

from sida.eval.claims import Claims, better, load_retraining, reaches, rows

CLAIMS = Claims(
    "8×8 digits, not about the papers' data sets",
    retraining=load_retraining("digits-demo"),
)
TEACHER = rows(method="teacher", sampler="heun-18")
SID = rows(method="sid", alpha=1.0)
SIDA = rows(method="sida")
SID2A = rows(method="sid2a")


@CLAIMS.claim("D-01", counterpart="C-14, C-16")
def d_01(evidence):
    """SiDA in one step has a lower FD than its teacher at NFE 35 (18 Heun steps)."""
    return better(evidence, SIDA, TEACHER, "fd", alike=["teacher"])


@CLAIMS.claim("D-02", counterpart="C-14")
def d_02(evidence):
    """SiD2A in one step has a lower FD than the teacher at NFE 35."""
    return better(evidence, SID2A, TEACHER, "fd", alike=["teacher"])


@CLAIMS.claim("D-03", counterpart="C-24")
def d_03(evidence):
    """SiD in one step has a lower FD than the teacher at NFE 35."""
    return better(evidence, SID, TEACHER, "fd", alike=["teacher"])


@CLAIMS.claim("D-05", counterpart="C-20")
def d_05(evidence):
    """SiDA is also closer to the data than its teacher at NFE 35 in pixel FD."""
    return better(evidence, SIDA, TEACHER, "fd_pixel", alike=["teacher"])


@CLAIMS.claim("D-06", counterpart="C-27")
def d_06(evidence):
    """After equally many images and with the same α SiDA has a lower FD than SiD."""
    return better(evidence, SIDA, SID, "fd", equal_images=True, alike=["teacher", "alpha"])


@CLAIMS.claim("D-07", counterpart="C-43")
def d_07(evidence):
    """SiDA reaches the lowest FD of SiD with at most half the images."""
    return reaches(evidence, SIDA, SID, "fd", times=2, alike=["teacher"])


@CLAIMS.claim(
    "D-09",
    counterpart="C-29, C-45",
    note="SiD2A's generator is the best of a curve that begins with its start, so this can hardly be contradicted.",
)
def d_09(evidence):
    """SiD2A has a lower FD than the SiD generator it starts from."""
    return better(evidence, SID2A, SID, "fd")


@CLAIMS.claim("D-10", counterpart="C-27")
def d_10(evidence):
    """Over training seeds, SiDA has a lower FD than SiD after equally many images."""
    return better(evidence, SIDA, SID, "fd", equal_images=True, seeds=3, alike=["teacher"])


@CLAIMS.claim("D-11")
def d_11(evidence):
    """SiDA draws the requested class more often than its teacher."""
    return better(evidence, SIDA, TEACHER, "accuracy", direction="higher", alike=["teacher"])


@CLAIMS.claim("D-12", counterpart="C-43")
def d_12(evidence):
    """SiDA reaches its teacher's FD with at most half the images of SiD."""
    return reaches(evidence, SIDA, SID, "fd", times=2, level=TEACHER, alike=["teacher"])
