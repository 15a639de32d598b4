"""The page's predictions that a rule can decide, over three teachers and two training seeds."""

from sida.eval.claims import Claims, better, rows

CLAIMS = Claims("Fashion-MNIST at 28×28, not about the papers' data sets")
SID = rows(method="sid", family="One Step")
SIDA = rows(method="sida", family="One Step")
SID2A = rows(method="sid2a")
GDD = rows(method="gdd")


@CLAIMS.claim("R-01")
def r_01(evidence):
    """SiDA has a lower FD than SiD after equally many images."""
    return better(evidence, SIDA, SID, "fd", seeds=2, alike=["teacher", "length"])


@CLAIMS.claim("R-02")
def r_02(evidence):
    """GDD has a lower FD than SiD, SiDA and SiD2A."""
    return [better(evidence, GDD, other, "fd", seeds=2) for other in (SID, SIDA, SID2A)]


@CLAIMS.claim("R-03")
def r_03(evidence):
    """GDD has a lower recall than SiDA."""
    return better(evidence, SIDA, GDD, "recall", direction="higher", seeds=2)


@CLAIMS.claim("R-04")
def r_04(evidence):
    """SiD2A's FD lies between SiDA's and SiD's."""
    return [better(evidence, SIDA, SID2A, "fd", seeds=2), better(evidence, SID2A, SID, "fd", seeds=2)]
