"""Claims on digits: what a teacher's images do for SiD, and real images beside them."""

from functools import partial

from sida.eval.claims import Claims, better, ratio, rows

CLAIMS = Claims("8×8 digits with one small network, not about the papers' data sets")
#: M-11 to M-13 and M-15 were written for the end of the trainings, M-14, M-16 and M-17 for the kept networks. Both have
#: decided each since 2026-11-30, when the rows were known.
END = " At the end of the trainings, after equally many images."


def claim(id, **about):
    """Decorator that adds a claim about the kept networks, and the same about the last evaluations as ``id-end``."""

    def add(decide):
        for name, words, equal_images in ((id, "", False), (f"{id}-end", END, True)):
            one = partial(decide, equal_images=equal_images)
            one.__doc__ = f"{decide.__doc__}{words}"
            CLAIMS.claim(name, **about)(one)
        return decide

    return add


@claim("M-11", counterpart="C-61")
def m_11(evidence, equal_images):
    """SiD's FD is lower from a teacher of 200k images than from one of 10k, and SiDA's is lower than SiD's from the
    latter.
    """
    sid = rows(recipe="digits-w0", teacher="d10")
    strong, sida = rows(recipe="digits-w0", teacher="d200"), rows(recipe="digits-w3", teacher="d10")
    return [better(evidence, one, sid, "fd", equal_images=equal_images, seeds=4) for one in (strong, sida)]


@claim("M-12")
def m_12(evidence, equal_images):
    """From a teacher of 10k images the papers' weight 0.01 has a higher FD than weight 3."""
    strong, weak = (rows(recipe=f"digits-{weight}", teacher="d10") for weight in ("w3", "w0.01"))
    return better(evidence, strong, weak, "fd", equal_images=equal_images, seeds=4)


@claim("M-13", note="C-54 is another statement: that the term alone diverges.")
def m_13(evidence, equal_images):
    """The adversarial term alone has a higher FD than SiD, from a teacher of 10k images and from one of 200k."""
    return [
        better(
            evidence, rows(recipe="digits-w0", teacher=teacher), rows(recipe="digits-alone", teacher=teacher), "fd",
            equal_images=equal_images, seeds=4,
        )
        for teacher in ("d10", "d200")
    ]  # fmt: skip


@claim("M-14", counterpart="C-62")
def m_14(evidence, equal_images):
    """From a teacher of 10k images SiDA's FD is at most 1.1 times that with a discriminator that has an encoder of its
    own (weight 0.3).
    """
    shared, own = (rows(recipe=recipe, teacher="d10") for recipe in ("digits-w0.3", "digits-own-encoder"))
    return ratio(evidence, shared, own, "fd", high=1.1, equal_images=equal_images, seeds=4)


@claim("M-15", counterpart="C-63")
def m_15(evidence, equal_images):
    """From a teacher of 10k images SiDA has a lower FD than with separate steps for the score and for the discriminator
    (weight 0.3).
    """
    joint, apart = (rows(recipe=recipe, teacher="d10") for recipe in ("digits-w0.3", "digits-separate-steps"))
    return better(evidence, joint, apart, "fd", equal_images=equal_images, seeds=4)


@claim("M-16")
def m_16(evidence, equal_images):
    """From a teacher of 10k images, with generated images in place of real ones, SiDA's FD is at least 0.95 times
    SiD's.
    """
    generated, sid = (rows(recipe=recipe, teacher="d10") for recipe in ("digits-generated", "digits-w0"))
    return ratio(evidence, generated, sid, "fd", low=0.95, equal_images=equal_images, seeds=4)


@claim("M-17")
def m_17(evidence, equal_images):
    """From a teacher of 10k images pooling by sample, and the weight γ = 1, have 0.8 to 1.25 times SiDA's FD."""
    sida, *others = (rows(recipe=f"digits-{recipe}", teacher="d10") for recipe in ("w0.3", "sample", "gamma"))
    within = partial(ratio, evidence, metric="fd", low=0.8, high=1.25, equal_images=equal_images, seeds=4)
    return [within(other, sida) for other in others]
