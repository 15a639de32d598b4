"""Distillers of other papers, by the loop of SiDA: consistency models, DMD, Uni-Instruct, UID, FD-loss and InSTAnce."""
