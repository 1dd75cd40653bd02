"""The Python code that a template becomes: Jinja's, printing through the environment and counting what it does.

Constants are not folded: folding would run filters and operators while the template compiles, when nothing is counted.
"""

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.idtracking import VAR_LOAD_PARAMETER

_LOOKUPS = ("in", "notin")
_OF_LOOPS = frozenset(("index", "index0", "revindex", "revindex0", "first", "last", "length"))


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const)


class TracingCodeGenerator(CodeGenerator):
    """Prints and joins through the environment, where Jinja would call `str` and `''.join`; counts iterations, and
    whatever Python's own code goes through: operands of comparisons, keys, sliced values."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        step = nodes.EnvironmentAttribute("step()", lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        super().visit_For(node, frame)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData | nodes.Const):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.printed(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.join_values((")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:  # noqa: N802
        self.write("environment.add(")
        self.visit(node.left, frame)
        self.write(", ")
        self.visit(node.right, frame)
        self.write(")")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        """Two values are compared no further than the smaller goes, so one is weighed; what is looked up is hashed."""
        self.write("(")
        if node.ops[0].op in _LOOKUPS:
            self._visit_counted("weigh", node.expr, frame)
        else:
            self.visit(node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._visit_counted("search" if operand.op in _LOOKUPS else "weigh", operand.expr, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("{")
        for item in node.items:
            self._visit_counted("weigh", item.key, frame)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        """What a loop knows of its place needs no sandbox; `loop` is never anything else inside one."""
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in _OF_LOOPS:
            reference = frame.symbols.ref("loop")
            load = frame.symbols.find_load(reference)
            if load is not None and load[0] == VAR_LOAD_PARAMETER and not self.parameter_is_undeclared(reference):
                self.write(f"{reference}.{node.attr}")
                return
        super().visit_Getattr(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self.write("environment.measure(")
            self.visit(node.node, frame)
            self.write(")[")
            self.visit(node.arg, frame)
            self.write("]")
        else:
            self.write("environment.getitem(")
            self.visit(node.node, frame)
            self.write(", ")
            self._visit_counted("weigh", node.arg, frame)
            self.write(")")

    def _visit_counted(self, how: str, node: nodes.Expr, frame: Frame) -> None:
        if _is_constant(node):
            self.visit(node, frame)
        else:
            self.write(f"environment.{how}(")
            self.visit(node, frame)
            self.write(")")

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier, frame: Frame) -> None:  # noqa: N802
        self.fail("{% autoescape %} has no place in a chat template", node.lineno)
