"""Running a template on symbols, iteration by iteration."""

from collections.abc import Sequence
from typing import Any

from jinja2.runtime import LoopContext

from pipeline.chat.replay.expressions import Call
from pipeline.chat.replay.recorder import NotReplayable, Recorder
from pipeline.chat.replay.recording import RecordingCodeGenerator, RecordingEnvironment, RecordingTemplate, leaf_maker
from pipeline.chat.replay.structure import View
from pipeline.chat.replay.symbols import SymbolicText, join_parts, texts_of
from pipeline.chat.steps import current
from pipeline.chat.steps.environment import StepwiseCodeGenerator, StepwiseEnvironment
from pipeline.chat.steps.fingerprints import Key, Loop, Outlook, Spaces, fingerprints, read_attributes
from pipeline.chat.steps.lessons import Answers, Recorded, shape_of
from schemas.conversation import Conversation


class StepRecorder(Recorder):
    """`asked` maps the tests of the iteration under way to their outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Answers = {}

    def decide(self, op: str, *args: Any) -> Any:
        outcome = super().decide(op, *args)
        self.asked.setdefault(Call(op, args), outcome)
        return outcome


class RecordingRun:
    """A rendering on symbols under way, every iteration of which is run. `recorded` is by the numbers of the loop and
    of the message."""

    def __init__(self, loops: Sequence[Loop], recorder: StepRecorder, views: Sequence[Any], view: View) -> None:
        self.parts: list[str] = []
        self.recorded: dict[tuple[int, int], Recorded] = {}
        self._loops = loops
        self._recorder = recorder
        self._view = view
        self._messages = {id(each): index for index, each in enumerate(views)}
        self._open: tuple[int, int, Key | None, int] | None = None

    def looks_up(self, number: int) -> bool:
        return True

    def is_idle(self, context: LoopContext, flag: Any) -> bool:
        return False

    def begin(self, number: int, values: Any, spaces: Spaces, outlook: Outlook | None) -> bool:
        self._open = None
        message = None if values is None else self._messages.get(id(values[0]))
        if message is not None:
            try:
                read = read_attributes(self._loops[number].reads, spaces)
                shape = shape_of(number, self._view, message, fingerprints(values[1:]) + fingerprints(read))
                self._open = number, message, shape, len(self.parts)
            except NotReplayable:
                pass
        self._recorder.asked = {}
        return True

    def end(self, spaces: Spaces) -> None:
        if self._open is None:
            return
        number, message, shape, start = self._open
        self._open = None
        written = join_parts(self.parts[start:])
        pieces = written._pieces if isinstance(written, SymbolicText) else tuple(texts_of(written))
        try:
            values = read_attributes(self._loops[number].writes, spaces)
            fingerprints(values)
        except NotReplayable:
            return
        self.recorded[number, message] = Recorded(shape, dict(self._recorder.asked), pieces, values)


class StepRecordingCodeGenerator(StepwiseCodeGenerator, RecordingCodeGenerator):
    pass


class StepRecordingEnvironment(StepwiseEnvironment, RecordingEnvironment):
    code_generator_class = StepRecordingCodeGenerator


class StepRecordingTemplate(RecordingTemplate):
    make_environment = StepRecordingEnvironment

    def record_steps(
        self, conversation: Conversation, view: View, loops: Sequence[Loop], *, add_generation_prompt: bool
    ) -> dict[tuple[int, int], Recorded]:
        """The iterations over messages, by the numbers of the loop and of the message. Raises NotReplayable."""
        recorder = StepRecorder()
        try:
            context = self.context(conversation, leaf_maker(recorder), add_generation_prompt=add_generation_prompt)
            run = RecordingRun(loops, recorder, context["messages"], view)
            token = current.current.set(run)
            try:
                for part in self.run(context):
                    run.parts.append(part)
            finally:
                current.current.reset(token)
        except NotReplayable:
            raise
        except Exception as error:  # what a symbol cannot do, and the value can
            raise NotReplayable(f"{type(error).__name__} on a symbol") from error
        return run.recorded
