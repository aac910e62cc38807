"""The methods about jobs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from jacloom._client.methods import Methods, label
from jacloom._deadline import Deadline
from jacloom._errors import OptionError
from jacloom._function import Function
from jacloom._jobs import calls
from jacloom._jobs.calls import parse_job
from jacloom._jobs.job import Job
from jacloom._jobs.kinds import JobDerivative, check_derivative, transform
from jacloom._jobs.order import read_order
from jacloom._jobs.record import JobState
from jacloom._jobs.submit import submit
from jacloom._options import Mode, check_flags, check_mode
from jacloom._outline import outline
from jacloom._remote import RemoteFunction
from jacloom._session import AnyFunction
from jacloom._signature import parse_id
from jacloom._sparsity import Sparsity, check_output, pattern


class Jobs(Methods):
    """Durable batches: one function, many points."""

    def submit(
        self,
        f: AnyFunction,
        points: Any,
        *args: Any,
        derivative: JobDerivative = "jacobian",
        seeds: Any = None,
        mode: Mode = "auto",
        sparsity: Sparsity = "auto",
        output: Literal["dense", "csr"] = "dense",
        holomorphic: bool = False,
        out: str | None = None,
        name: str | None = None,
        priority: int = 0,
        deadline: float | timedelta | datetime | None = None,
        ttl: float | timedelta | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Has the service compute something of ``f(point, *args)`` at each of many points, and returns the job once the points are stored there.

        The job runs by itself from then on, whatever happens to this program, and whatever dies of the service. Differentiated is with respect to
        the point. All points have the types of the first one; they are sent as they are read, never held in memory as a whole.

        Args:
            f: The function, as for all methods; its first argument is the point.
            points: An array, or a pytree of arrays, whose first axis is that of the points; an iterator of single points; the path of a ``.npy`` or
                ``.npz`` file or of a Zarr store; a Zarr array or group. Files and groups with names are dicts. Pass ``iter(points)`` for a list of
                points, which is a pytree otherwise.
            *args: Further arguments, the same for all points.
            derivative: ``"value"``, ``"gradient"``, ``"jacobian"``, ``"hessian"``, ``"jvp"`` or ``"vjp"``.
            seeds: For a JVP one tangent for each point, like the points; for a VJP one cotangent, like the results. Anything that points can be.
            mode: Of a Jacobian, as for ``jacobian``.
            sparsity: Of a Jacobian or a Hessian, as for ``jacobian``; a pattern is held against the function's own passes at the first point.
            output: Of a Jacobian or a Hessian, how its results are read: ``"dense"`` for arrays in the tree of a call, ``"csr"`` for one
                ``scipy.sparse.csr_array`` each. Stored are the entries of the pattern wherever it is used.
            holomorphic: As for ``jacobian``.
            out: Path of the results below the service's folder for them; must not exist. Default: ``jobs/<id>``.
            name: For people, at most 128 characters. Default: the function's own.
            priority: From -100 to 100; jobs with a higher one go first.
            deadline: When the job is stopped, what it has finished being kept: a moment, or seconds from now. Default: never.
            ttl: Seconds for which the results are kept after its end. Default: until they are deleted.
            request_id: Of 1 to 64 characters. Submitting the same once more with the same one makes no second job; a deadline must be the same moment
                then. Default: a new one.
            timeout: Seconds for sending the points; no job is made if it takes longer.

        Raises:
            ArgumentError: if points do not fit the function or each other, naming the first that does not.
            JobError: if the service keeps no jobs, or another job has the ``request_id``.
            MissingExtraError: if points are a Zarr store and Zarr is not installed.

        Example:
            >>> job = client.submit(lambda x: x**2, np.arange(6.0).reshape(3, 2))
            >>> job.wait().result()[0]
            array([[0., 0.],
                   [0., 2.]])
        """
        call = f"client.submit({label(f)}, points"
        given = {
            "seeds": seeds is not None,
            "mode": not (isinstance(mode, str) and mode == "auto"),
            "sparsity": not (isinstance(sparsity, str) and sparsity == "auto"),
            "output": not (isinstance(output, str) and output == "dense"),
            "holomorphic": holomorphic is not False,
        }
        check_derivative(call, derivative, given)
        check_flags(f"{call})", holomorphic=holomorphic)
        check_mode(f"{call}, mode=...)", mode)
        read = pattern(f"{call}, sparsity=...)", sparsity)
        if output not in ("dense", "csr"):
            raise OptionError(f"`{call}, output=...)`: output must be 'dense' or 'csr', got {outline(output)}.")
        check_output(f"{call}, output=...)", output, sparsity)
        shown = _default_name(f) if name is None else name
        order = read_order(call, out=out, name=shown, priority=priority, deadline=deadline, ttl=ttl, request_id=request_id)
        asked = transform(derivative, mode=mode, sparsity=sparsity if read is None else read, output=output, holomorphic=holomorphic)
        record, function = submit(self._session, f, points, args, seeds, derivative, asked, order, Deadline(timeout))
        return Job(self._session, record, function)

    def job(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Returns a job by its id, also one that another program submitted.

        Raises:
            JobNotFoundError: if the service has none of that id.
        """
        return Job(self._session, calls.get(self._session.connection, parse_job(job_id), Deadline(timeout)))

    def jobs(
        self,
        *,
        states: Iterable[JobState | str] = (),
        function: RemoteFunction | Function | str | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> list[Job]:
        """Returns the service's jobs, newest first.

        Args:
            states: Only those in one of these, such as ``["running", "queued"]``. Default: all.
            function: Only those of this function. Default: of any.
            limit: At most so many. Default: all.
            timeout: Seconds; see the class.
        """
        wanted = _states(states)
        function_id = "" if function is None else function.id if isinstance(function, RemoteFunction | Function) else parse_id(function)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise OptionError(f"`client.jobs(limit={outline(limit)})`: limit must be a positive integer, or None for all.")
        found = calls.listed(self._session.connection, wanted, function_id, limit, Deadline(timeout))
        return [Job(self._session, record) for record in found]

    def expire_jobs(self, *, dry_run: bool = False, timeout: float | None = None) -> list[Job]:
        """Deletes the jobs whose ``ttl`` is over, with their results, and returns them; the service also does so by itself.

        Args:
            dry_run: Whether they are only returned.
            timeout: Seconds; see the class.
        """
        check_flags("client.expire_jobs()", dry_run=dry_run)
        return [Job(self._session, record) for record in calls.expire(self._session.connection, dry_run, Deadline(timeout))]


def _default_name(f: AnyFunction) -> str:
    return f.display_name if isinstance(f, RemoteFunction) else f.label if isinstance(f, Function) else label(f)


def _states(given: Iterable[JobState | str]) -> list[JobState]:
    possible = ", ".join(repr(state.value) for state in JobState)
    try:
        return [JobState(state) for state in ([given] if isinstance(given, str) else given)]
    except (ValueError, TypeError):
        raise OptionError(f"`client.jobs(states={outline(given)})`: states must be among {possible}.") from None
