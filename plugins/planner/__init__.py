"""Verbs before a run: plan, doctor, new studies, rehearsals with random networks, completion in a shell."""
