"""Claims of the paper that single trainings on digits can speak about."""

from sida.eval.claims import Claims, better, load_retraining, ratio, row

CLAIMS = Claims(
    "8×8 digits, not about the papers' data sets",
    retraining=load_retraining("digits"),
)
SIZES = ("small", "t30", "edm2", "large")
SIDA, SID = row("t30-sida"), row("t30-sid")


@CLAIMS.claim("P-01", counterpart="C-14, C-16, C-17, C-18")
def p_01(evidence):
    """SiDA in one step has a lower FD than its teacher at NFE 35, for networks of every size (one training)."""
    return [better(evidence, row(f"{size}-sida"), row(f"teacher-{size}"), "fd", alike=["teacher"]) for size in SIZES]


@CLAIMS.claim("P-02", counterpart="C-14, C-15, C-17, C-18")
def p_02(evidence):
    """SiD2A in one step has a lower FD than its teacher at NFE 35, for networks of every size (one training)."""
    return [better(evidence, row(f"{size}-sid2a"), row(f"teacher-{size}"), "fd", alike=["teacher"]) for size in SIZES]


@CLAIMS.claim("P-04", counterpart="C-27")
def p_04(evidence):
    """After equally many images SiDA's generator has a lower FD than SiD's (one training)."""
    return better(evidence, SIDA, SID, "fd", equal_images=True, alike=["teacher"])


@CLAIMS.claim("P-03", counterpart="C-30")
def p_03(evidence):
    """After equally many images SiDA's generator has a lower distance in pixels, too (one training)."""
    return better(evidence, SIDA, SID, "fd_pixel", equal_images=True, alike=["teacher"])


@CLAIMS.claim("P-05", counterpart="C-27")
def p_05(evidence):
    """After equally many images SiDA's generator has a lower FD than SiD's with either α on unconditional digits
    (one training).
    """
    others = (row("uncond-sid"), row("uncond-sid-a1.2"))
    return [better(evidence, row("uncond-sida"), other, "fd", equal_images=True, alike=["teacher"]) for other in others]


@CLAIMS.claim("P-06", counterpart="C-32")
def p_06(evidence):
    """SiDA has a higher inception score than SiD on unconditional digits (one training)."""
    others = (row("uncond-sid"), row("uncond-sid-a1.2"))
    return [better(evidence, row("uncond-sida"), other, "is", direction="higher") for other in others]


@CLAIMS.claim("P-11", note="C-28 and C-31 are about other lengths.")
def p_11(evidence):
    """SiD2A has a lower FD than SiDA for networks of every size, with the same images in all (one training)."""
    return [
        better(evidence, row(f"{size}-sid2a"), row(f"{size}-sida"), "fd", alike=["teacher", "length"]) for size in SIZES
    ]


@CLAIMS.claim("P-12", counterpart="C-29")
def p_12(evidence):
    """After equally many images SiDA has a lower FD than SiD for networks of every size (one training)."""
    return [
        better(evidence, row(f"{size}-sida"), row(f"{size}-sid"), "fd", equal_images=True, alike=["teacher"])
        for size in SIZES
    ]


@CLAIMS.claim("P-13", note="Beside C-34, which is about real data.")
def p_13(evidence):
    """Larger networks make better SiDA generators (width 48 before 32 before 16; one training)."""
    return [
        better(evidence, row("large-sida"), row("t30-sida"), "fd"),
        better(evidence, row("t30-sida"), row("small-sida"), "fd"),
    ]


@CLAIMS.claim("P-26", counterpart="C-61")
def p_26(evidence):
    """From a teacher of 10k images SiDA has a lower FD than SiD after equally many images (one training)."""
    return better(evidence, row("t10-sida"), row("t10-sid"), "fd", equal_images=True, alike=["teacher"])


@CLAIMS.claim("P-31", note="Beside C-47, which is about real data.")
def p_31(evidence):
    """SiDA needs no more memory than SiD (within one per cent of the process)."""
    return ratio(evidence, SIDA, SID, quantity="memory_mb", high=1.01)


@CLAIMS.claim("P-32", note="Beside C-48, which is about real data.")
def p_32(evidence):
    """SiDA's time per image is about ten per cent above SiD's (ratio within 1.0 to 1.2)."""
    return ratio(evidence, SIDA, SID, quantity="seconds_per_kimg", low=1.0, high=1.2)


@CLAIMS.claim("P-85", counterpart="C-25")
def p_85(evidence):
    """On EDM2 layers SiD performs about as well as its teacher at NFE 35 (ratio of FDs within 0.85 to 1.15; one
    training).
    """
    return ratio(evidence, row("edm2-sid"), row("teacher-edm2"), "fd", low=0.85, high=1.15, alike=["teacher"])
