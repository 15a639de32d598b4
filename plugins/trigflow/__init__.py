"""TrigFlow's networks of sCM, with an angle for time, and the samplers of their students."""
