"""What the processor does with a task. See ``processor.job`` for the stages of one."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.consuming.consumer import JobContext, Outcome
from pipeline.errors import PipelineError
from pipeline.messages import SeparationResult, SeparationTask, to_message
from processor.job import Equipment, SeparationJob

_JOB = "separation-job"


@dataclass(frozen=True, slots=True)
class Processor:
    """The worker behind the processor's consumer loop, shared by its lanes. See ``pipeline.consuming.consumer.Worker``.

    Everything it does may be repeated: working files have names of their own, and the stems' keys in the hand-off
    are derived from the task.
    """

    equipment: Equipment
    result_topic: str

    def handle(self, task: SeparationTask, context: JobContext) -> Outcome:
        """Separate the task's song, or what is left to do of it. Raises whatever a stage raises."""
        job = context.scratch.get(_JOB)
        if not isinstance(job, SeparationJob):
            job = context.scratch[_JOB] = SeparationJob(self.equipment, task, context)
        return Outcome((to_message(self.result_topic, job.result()),), end="separated")

    def on_failure(self, task: SeparationTask, error: PipelineError) -> Outcome:
        """The ``failed`` result, for the uploader to tell the client."""
        return Outcome((to_message(self.result_topic, SeparationResult.failed(task, error)),), end="failed")
