"""Poolings that a model spells out in standard operators, put back as nodes.

    lift.py        the whole: found, replaced, and proven to give the same
    recognise.py   which node is a pooling, and why others are not
    own_forms.py   the same for our own standard form     match.py     what both say
    tokens.py      the same for means of tokens in float16
    restore.py     the same for our functions, written out by other programs
    settle.py      its window, for certain                fold.py      the nodes in its place
    views.py       which window slices and reshapes make  prove.py     the lifted model against the original
    tracing.py     where cells come from, by running      sizes.py     sizes that are tried
    logits.py      logits made of cells one by one
    sums.py        sums over windows                      values.py    what is known of a value beforehand

Imports go one way: ``values -> sums -> match, logits -> own_forms, tokens -> recognise``, ``tracing -> views ->
settle``, and ``lift`` imports these, ``restore``, ``fold`` and ``prove``.
"""
