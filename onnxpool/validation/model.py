"""A model that many ask about: read once, and brought into each other form once.

>>> held = HeldModel("network.onnx")  # doctest: +SKIP
>>> held.form, [node.name for node in held.nodes("standard")]  # doctest: +SKIP
('function', ['pool'])

Nobody who is given one of its models may change it.
"""

import os

import onnx_ir as ir

from onnxpool.domain import DOMAIN, Form
from onnxpool.errors import FormError
from onnxpool.graph.blocks import nodes_in_blocks
from onnxpool.graph.fingerprint import Fingerprints, of_converted
from onnxpool.graph.forms import Model, PoolNode, form_of, pool_nodes, read, to_form


class HeldModel:
    """``source`` is what was given, ``original`` what was read of it, ``form`` the form that this is in.

    Raises :class:`FormError` for what cannot be read.
    """

    def __init__(self, source: Model) -> None:
        self.source = source
        self.original = read(source)
        self.form: Form = form_of(self.original)
        self._converted: dict[Form, ir.Model | FormError] = {}
        self._nodes: dict[Form, list[PoolNode]] = {}

    @property
    def name(self) -> str:
        """The path of a file, or else what the graph is called."""
        if isinstance(self.source, str | os.PathLike):
            return os.fspath(self.source)
        return self.original.graph.name or "model"

    @property
    def bare(self) -> ir.Model:
        """With bare pooling nodes; as it is where it cannot be brought into that form (its runs will say so)."""
        return self._nearest("custom")

    @property
    def runnable(self) -> ir.Model:
        """As it is, but with functions where it has bare nodes: what ONNX Runtime runs without the native library."""
        return self.converted("function") if self.form == "custom" and not self.optimised else self.original

    @property
    def pools(self) -> bool:
        """Whether it has a pooling node of ours."""
        return self.optimised or any(node.domain == DOMAIN for node in self.bare.graph.all_nodes())

    @property
    def optimised(self) -> bool:
        """Whether :func:`onnxpool.optimize` made it: it has no other form."""
        return any(nodes_in_blocks(self.original))

    def converted(self, form: Form) -> ir.Model:
        """What :func:`onnxpool.to_form` makes of it, also for the form that it is in.

        Raises :class:`FormError` where it cannot be brought into that form.
        """
        if form not in self._converted:
            try:
                self._converted[form] = to_form(self.original, form)
            except FormError as error:
                self._converted[form] = error
        found = self._converted[form]
        if isinstance(found, FormError):
            raise found
        return found

    def nodes(self, form: Form) -> list[PoolNode]:
        """The pooling nodes in this form; in its own form those that it has as it is. Raises :class:`FormError`."""
        if form not in self._nodes:
            self._nodes[form] = pool_nodes(self.original if form == self.form else self.converted(form))
        return self._nodes[form]

    def fingerprints(self) -> Fingerprints:
        """See :func:`onnxpool.graph.fingerprint.fingerprints`."""
        return of_converted(self.original, self.original if self.form == "function" else self._nearest("function"))

    def _nearest(self, form: Form) -> ir.Model:
        try:
            return self.converted(form)
        except FormError:
            return self.original
