"""Launch of a job's command: on GPUs of a machine, or on nodes of a cluster."""
