"""Poolings that a model spells out in standard operators, put back as nodes.

    lift.py        the whole: found, replaced, and proven to give the same
    recognise.py   which node is a pooling, and why others are not
    settle.py      its window, for certain                fold.py      the nodes in its place
    views.py       which window slices and reshapes make  prove.py     the lifted model against the original
    sums.py        sums over windows                      values.py    what is known of a value beforehand

Imports go one way: ``values -> sums -> recognise -> views -> settle -> lift``; ``lift`` imports ``fold`` and ``prove``.
"""
