"""What an experiment would cost, from sizes alone: tokens, operations, memory, GPU hours, a judge's money."""
