"""What a target of a preset will cost, and what a machine lacks for it, before anything is spent."""
