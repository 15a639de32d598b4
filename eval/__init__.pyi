from sida.eval import results as results
from sida.eval.scoring import score as score
