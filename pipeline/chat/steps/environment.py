"""The tracing sandbox whose loops ask, before each iteration, whether it has to be run."""

import contextlib
from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import Frame

from pipeline.chat.codegen import TracingCodeGenerator
from pipeline.chat.environment import TracingEnvironment
from pipeline.chat.steps import current
from pipeline.chat.steps.plan import NotStepwise, Plan, Planner

_OF_REQUEST = ("messages", "add_generation_prompt")
"""What differs between a conversation's renderings, of all that a template is given."""


class StepwiseCodeGenerator(TracingCodeGenerator):
    """Wraps the bodies of those loops that write to the rendering itself."""

    environment: "StepwiseEnvironment"

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        self._planner = Planner(node)
        self._bodies: dict[int, tuple[Plan, nodes.Node]] = {}
        self._within = False
        super().visit_Template(node, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        if frame.buffer is None and not self._within:
            with contextlib.suppress(NotStepwise):
                self._bodies[id(node.body)] = self._planner.plan(node), node.target
        super().visit_For(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        plan, target = self._bodies.pop(id(nodes), (None, None))
        if plan is None or target is None:
            super().blockvisit(nodes, frame)
            return
        loop = frame.symbols.find_ref("loop")
        self._within = True
        if plan.flag is not None and loop is not None:
            self.writeline(f"if environment.is_idle({loop}, ")
            self.visit(plan.flag, frame)
            self.write("): break")
            super().blockvisit(nodes, frame)
        else:
            self._visit_known(plan, target, nodes, frame)
        self._within = False

    def _visit_known(self, plan: Plan, target: nodes.Node, body: Iterable[nodes.Node], frame: Frame) -> None:
        outer, loop = frame.parent, frame.symbols.find_ref("loop")
        assert outer is not None
        plan.keep_spaces(lambda name: outer.symbols.find_ref(name) is not None)
        number = len(self.environment.plans)
        self.environment.plans.append(plan)
        key, spaces = self.temporary_identifier(), self._references(plan.spaces, outer)
        self.writeline(f"{key} = None")
        self.writeline(f"if environment.looks_up({number}):")
        self.indent()
        self.writeline("try:")
        self.indent()
        self.writeline(f"{key} = (")
        for expression in (target, *plan.guards):
            self.visit(expression, frame)
            self.write(", ")
        self.write(f"*{self._references(plan.names, outer)})")
        self.outdent()
        self.writeline("except Exception: pass")
        self.outdent()
        outlook = "None"
        if plan.outlook is not None and loop is not None:
            lists, names = (self._references(found, outer) for found in (plan.outlook.lists, plan.outlook.names))
            outlook = f"({loop}, {lists}, {names})" if lists != "()" else "None"
        self.writeline(f"if environment.begin({number}, {key}, {spaces}, {outlook}):")
        self.indent()
        super().blockvisit(body, frame)
        self.writeline(f"environment.end({spaces})")
        self.outdent()

    def _references(self, names: Iterable[str], outer: Frame) -> str:
        """A tuple of those variables that differ between a conversation's renderings."""
        written = []
        for name in names:
            reference = outer.symbols.find_ref(name)
            if reference is None and name in _OF_REQUEST:
                reference = f"context.resolve_or_missing({name!r})"
            written += [f"{reference}, "] if reference else []
        return f"({''.join(written)})"


class StepwiseEnvironment(TracingEnvironment):
    """`plans`: of the loops of the template that was compiled last."""

    code_generator_class = StepwiseCodeGenerator
    looks_up = staticmethod(current.looks_up)
    begin = staticmethod(current.begin)
    end = staticmethod(current.end)
    is_idle = staticmethod(current.is_idle)

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.plans: list[Plan] = []
