"""What every suite needs: child processes, rounds, targets and their tables."""
