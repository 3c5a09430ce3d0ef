"""Speed and memory, as ratios in one run; never as timed tests."""
