"""Which layers a step is about: patterns over the paths of the user's modules, and over kinds of layers."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch.fx import Node

from edgewright.errors import RecipeError, did_you_mean
from edgewright.pipeline.passes.graph import aten, module_path
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.program import Program

KINDS = {
    "@embedding": frozenset({aten.embedding.default}),
    "@linear": frozenset({aten.linear.default}),
    "@convolution": frozenset(
        {
            aten.conv1d.default,
            aten.conv2d.default,
            aten.conv3d.default,
            aten.conv_transpose1d.default,
            aten.conv_transpose2d.input,
        }
    ),
    "@product": frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default}),  # of two activations
}
ENDS = ("@first", "@last")


@dataclass(frozen=True)
class ModulePatterns:
    """Shell patterns over module paths, any of which may match; what a pattern behind "!" matches is left out.

    "name.*" is all below a module and what it computes itself.
    "@first" and "@last" are the first and the last layer with a weight, in the graph's order; "@embedding", "@linear",
    "@convolution" and "@product" are layers of that kind, wherever they stand.
    """

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    ends: tuple[str, ...]  # names of the first and the last layer

    @staticmethod
    def of(text: str, program: Program) -> ModulePatterns:
        """Read "vision.*|head|!*.attention.*|!@first".

        Raises:
            RecipeError: a pattern matches no module of the program, with the nearest paths; or there is no such kind.
        """
        patterns = text.split("|")
        paths = {module_path(node) for node in program.graph.nodes} - {""}
        for pattern in (pattern.removeprefix("!") for pattern in patterns):
            if pattern.startswith("@") and pattern not in (*KINDS, *ENDS):
                expected = did_you_mean(pattern, (*KINDS, *ENDS))
                raise RecipeError("there is no such kind of layer", got=repr(pattern), expected=expected)
            if not pattern.startswith("@") and pattern != "*" and not any(_names(pattern, path) for path in paths):
                raise RecipeError(
                    "the pattern matches no module",
                    got=repr(pattern),
                    expected=did_you_mean(pattern, paths),
                    do='name a module, or all below one with "name.*"',
                )
        layers = [node.name for node in program.graph.nodes if node.target in WEIGHTS]
        unwanted = tuple(pattern[1:] for pattern in patterns if pattern.startswith("!"))
        wanted = tuple(pattern for pattern in patterns if not pattern.startswith("!")) or ("*",)
        return ModulePatterns(wanted, unwanted, (layers[0], layers[-1]) if layers else ())

    def match(self, node: Node) -> bool:
        return any(self._is(pattern, node) for pattern in self.wanted) and not any(
            self._is(pattern, node) for pattern in self.unwanted
        )

    def _is(self, pattern: str, node: Node) -> bool:
        if pattern in ENDS:
            return bool(self.ends) and node.name == self.ends[ENDS.index(pattern)]
        if pattern in KINDS:
            return node.target in KINDS[pattern]
        return _names(pattern, module_path(node))


def _names(pattern: str, path: str) -> bool:
    return fnmatchcase(path, pattern) or (pattern.endswith(".*") and fnmatchcase(path, pattern[:-2]))
