"""Batch jobs: what is submitted, how it goes on, and what comes of it."""

from __future__ import annotations

from jacloom._jobs.calls import JobFailure, JobVerification
from jacloom._jobs.job import Job
from jacloom._jobs.record import JobArray, JobProgress, JobRecord, JobState
from jacloom._jobs.result import JobResult

__all__ = ["Job", "JobArray", "JobFailure", "JobProgress", "JobRecord", "JobResult", "JobState", "JobVerification"]
