"""Losses: one class per method; tests can replace the random draws."""

from sida.losses.edm import EDMLoss as EDMLoss
from sida.losses.gdd import GDDLoss as GDDLoss
from sida.losses.sid import SiDLoss as SiDLoss
from sida.losses.sida import EDM2SiDALoss as EDM2SiDALoss
from sida.losses.sida import SiDALoss as SiDALoss
from sida.losses.terms import Draws as Draws
from sida.losses.terms import Loss as Loss
from sida.losses.terms import MicroBatch as MicroBatch
from sida.losses.terms import ScoreLoss as ScoreLoss
from sida.losses.terms import Terms as Terms
from sida.losses.terms import edm_weight as edm_weight
from sida.losses.terms import lognormal_sigma as lognormal_sigma
from sida.losses.terms import score_weight as score_weight
from sida.losses.terms import sigma_of_t as sigma_of_t
