"""One command in several processes that torchrun has started: which of them this is, what they tell each other, and
which part of the work is whose.
"""
