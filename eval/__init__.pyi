from eval import results as results
from eval.scoring import score as score
