"""What visits the sites, and how the sum of the answers is combined."""

from locum.tasks.base import BaseTask, Memory, Params, State, Task, build, build_plan, kinds, register

__all__ = ["BaseTask", "Memory", "Params", "State", "Task", "build", "build_plan", "kinds", "register"]
