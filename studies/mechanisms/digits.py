"""Claims on digits: what a teacher's images do for SiD, and real images beside them."""

from eval.claims import Claims, better, ratio, rows

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


@CLAIMS.claim("M-13", counterpart="C-54")
def m_13(evidence):
    """The adversarial term alone has a higher FD than SiD after equally many images, from a teacher of 10k images and
    from one of 200k.
    """
    return [
        better(
            evidence, rows(recipe="digits-w0", teacher=teacher), rows(recipe="digits-alone", teacher=teacher), "fd",
            equal_images=True, seeds=4,
        )
        for teacher in ("d10", "d200")
    ]  # fmt: skip


@CLAIMS.claim("M-14", counterpart="C-62", note="The training has no such discriminator yet, so no row is in the sheet.")
def m_14(evidence):
    """From a teacher of 10k images SiDA's FD is at most 1.1 times that with a discriminator that has an encoder of its
    own.
    """
    shared, own = (rows(recipe=recipe, teacher="d10") for recipe in ("digits-w3", "digits-own-encoder"))
    return ratio(evidence, shared, own, "fd", high=1.1, seeds=4)


@CLAIMS.claim("M-15", counterpart="C-63", note="The training has no such steps yet, so no row is in the sheet.")
def m_15(evidence):
    """From a teacher of 10k images SiDA has a lower FD after equally many images than with separate steps for the score
    and for the discriminator.
    """
    joint, apart = (rows(recipe=recipe, teacher="d10") for recipe in ("digits-w3", "digits-separate-steps"))
    return better(evidence, joint, apart, "fd", equal_images=True, seeds=4)
