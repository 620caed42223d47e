"""Which layers a step is about: patterns over the paths of the user's modules."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch.fx import Node

from edgewright.errors import RecipeError, did_you_mean
from edgewright.pipeline.passes.graph import module_path
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class ModulePatterns:
    """Shell patterns, any of which a module's path may match."""

    patterns: tuple[str, ...]

    @staticmethod
    def of(text: str, program: Program) -> ModulePatterns:
        """Read "vision.*|head".

        Raises:
            RecipeError: a pattern matches no module of the program; with the nearest paths.
        """
        patterns = tuple(text.split("|"))
        paths = {module_path(node) for node in program.graph.nodes} - {""}
        for pattern in patterns:
            if pattern != "*" and not any(fnmatchcase(path, pattern) for path in paths):
                raise RecipeError(
                    "the pattern matches no module",
                    got=repr(pattern),
                    expected=did_you_mean(pattern, paths),
                    do='name a module, or all below one with "name.*"',
                )
        return ModulePatterns(patterns)

    def match(self, node: Node) -> bool:
        return any(fnmatchcase(module_path(node), pattern) for pattern in self.patterns)
