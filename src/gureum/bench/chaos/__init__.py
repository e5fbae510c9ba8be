"""A cloud of its own in which things die at random, judged from outside.

``plan`` says from a seed what is done, ``faults`` does it. ``writers`` have guests write, ``traffic`` calls
the API, and both remember what was acknowledged. ``settled`` says what is not as it was asked for, ``run`` is
all of it.
"""
