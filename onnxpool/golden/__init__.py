"""Golden: the inputs that a model is tried on, its float64 answers, and how far from these a result may be.

    inputs.py          the cases: ordinary, adversarial, of other sizes
    collect.py         asks for the answers to each, and makes a golden of them
    from_torch.py      answered by a PyTorch module       from_model.py    by the model itself: the float64 reference
    from_function.py   by any function                    file.py          the golden file beside a model
    from_quantized.py  by a quantised model, exactly      rounding.py      its roundings in float64
    bounds.py          every allowed error, and measuring    magnitude.py    a yardstick by magnitude of the answer
    perturbed.py       runs that round a little otherwise    choices.py      outputs that jump: each value is right
    arrangement.py     how a module takes a model's inputs   pointed.py      what outputs of indices point at
    trace.py           cells of the values inside            likeness.py     cosine and noise of two vectors

Every result is compared with these answers, never one result with another.
"""
