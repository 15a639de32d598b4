"""Speed as ratios: each benchmark times the suite against a stated baseline in the same run, interleaved."""
