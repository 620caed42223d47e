"""onnxscript's rewrite rules, each tried only where its pattern could end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def matching_by_operation() -> Iterator[None]:
    """Within it, a rule is tried at operations of the type that its pattern ends with.

    onnxscript tries each rule at each node; the one with two results looks through all nodes each time.
    """
    from onnxscript.rewriter._rewrite_rule import RewriteRule

    whole = RewriteRule.try_rewrite

    def try_rewrite(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        wanted = self._target_pattern.output_nodes[0].op_identifier()  # None: one of several types
        if wanted is not None and wanted != node.op_identifier():
            return None
        return whole(self, model, graph, node, **options)

    RewriteRule.try_rewrite = try_rewrite
    try:
        yield
    finally:
        RewriteRule.try_rewrite = whole
