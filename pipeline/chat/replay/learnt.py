"""What was learnt of rows, or of iterations, that a template treats alike as far as their structure goes."""

from pipeline.chat.replay.tree import Tree

FREE_LESSONS = 8


class Learnt:
    """It learns while what it has learnt is used: a lesson costs several renderings."""

    __slots__ = ("lessons", "replays", "replays_per_lesson", "tree")

    def __init__(self, replays_per_lesson: int) -> None:
        self.tree = Tree()
        self.lessons = self.replays = 0
        self.replays_per_lesson = replays_per_lesson

    @property
    def learns(self) -> bool:
        return self.lessons < FREE_LESSONS + self.replays // self.replays_per_lesson
