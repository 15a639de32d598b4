"""Signs of the predictions of ``anew.md``, for each pair of methods on three judges; each training has its own seed."""

from sida.eval.claims import Claims, better, rows

CLAIMS = Claims("Fashion-MNIST at 28×28, not about the papers' data sets")
SID = rows(method="sid", family="One Step")
SIDA = rows(method="sida", family="One Step")
SID2A = rows(method="sid2a")
GDD = rows(method="gdd", recipe="gdd")
TEACHERS = {"seeds": 2, "alike": ["teacher"]}


@CLAIMS.claim("N-01")
def n_01(evidence):
    """SiD has a lower FD than SiDA, in clothes' features; SiDA has the lower one in pixels and in ImageNet's."""
    sides = (("fd", SID, SIDA), ("fd_pixel", SIDA, SID), ("fd_lite0", SIDA, SID))
    return [better(evidence, low, high, metric, **TEACHERS) for metric, low, high in sides]


@CLAIMS.claim("N-02")
def n_02(evidence):
    """SiD2A has a lower FD than SiD and SiDA, by all three judges."""
    judges = ("fd", "fd_pixel", "fd_lite0")
    return [better(evidence, SID2A, other, metric, **TEACHERS) for metric in judges for other in (SID, SIDA)]


@CLAIMS.claim("N-03")
def n_03(evidence):
    """GDD has a lower FD than SiD, SiDA and SiD2A, by the two judges that were not trained on this data set."""
    judges = ("fd_pixel", "fd_lite0")
    return [better(evidence, GDD, other, metric, **TEACHERS) for metric in judges for other in (SID, SIDA, SID2A)]


@CLAIMS.claim("N-04")
def n_04(evidence):
    """GDD has a lower FD in clothes' features if it learned clothes than if it learned ImageNet."""
    recipes = ("gdd", "gdd-lite0")
    pairs = [[rows(recipe=recipe, teacher=teacher) for recipe in recipes] for teacher in ("one", "two")]
    return [better(evidence, clothes, imagenet, "fd", seeds=2) for clothes, imagenet in pairs]
