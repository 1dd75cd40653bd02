"""The tracing sandbox whose loops ask, before each iteration, whether it has to be run."""

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import Frame

from pipeline.chat.codegen import TracingCodeGenerator
from pipeline.chat.environment import TracingEnvironment
from pipeline.chat.steps import memory
from pipeline.chat.steps.plan import NotStepwise, Plan, Planner

_OF_REQUEST = ("messages", "add_generation_prompt")
"""What differs between a conversation's renderings, of all that a template is given."""


class StepwiseCodeGenerator(TracingCodeGenerator):
    """Wraps the bodies of those loops that write to the rendering itself."""

    environment: "StepwiseEnvironment"

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        self._planner = Planner(node)
        self._bodies: dict[int, tuple[Plan, nodes.Expr]] = {}
        self._within = False
        super().visit_Template(node, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        if frame.buffer is None and not self._within:
            try:
                self._bodies[id(node.body)] = self._planner.plan(node), node.target
            except NotStepwise:
                pass
        super().visit_For(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        plan, target = self._bodies.pop(id(nodes), (None, None))
        if plan is None or target is None:
            super().blockvisit(nodes, frame)
            return
        outer = frame.parent
        assert outer is not None
        number = len(self.environment.plans)
        self.environment.plans.append(plan)
        key = self.temporary_identifier()
        spaces = "".join(f"{outer.symbols.find_ref(name)}, " for name in plan.spaces)
        self.writeline(f"{key} = None")
        self.writeline(f"if environment.looks_up({number}):")
        self.indent()
        self.writeline("try:")
        self.indent()
        self.writeline(f"{key} = (")
        for expression in (target, *plan.guards):
            self.visit(expression, frame)
            self.write(", ")
        for name in plan.names:
            reference = outer.symbols.find_ref(name)
            if reference is not None or name in _OF_REQUEST:
                self.write(f"{reference or f'context.resolve_or_missing({name!r})'}, ")
        self.write(")")
        self.outdent()
        self.writeline("except Exception: pass")
        self.outdent()
        self.writeline(f"if environment.begin({number}, {key}, ({spaces})):")
        self.indent()
        self._within = True
        super().blockvisit(nodes, frame)
        self._within = False
        self.writeline(f"environment.end(({spaces}))")
        self.outdent()


class StepwiseEnvironment(TracingEnvironment):
    """`plans`: of the loops of the template that was compiled last."""

    code_generator_class = StepwiseCodeGenerator
    looks_up = staticmethod(memory.looks_up)
    begin = staticmethod(memory.begin)
    end = staticmethod(memory.end)

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.plans: list[Plan] = []
