"""How many CPUs this process may use: those of its affinity mask, within the quota of its control groups."""

import os
from math import ceil


def usable_cpus() -> int:
    """CPUs of the affinity mask, or fewer if a cgroup (v1 or v2) grants less CPU time; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, ceil(quota)))


def cgroup_quota(membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float | None:
    """The CPU time per unit of time that the process's cgroups grant it, in CPUs; None if unlimited.

    `membership` has lines "id:controllers:path", the controllers of v2 being empty. The limit of every ancestor binds
    too. In a container the path may begin outside what is mounted there: what is missing is passed over.
    """
    quotas = []
    for line in read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts, quota = [root], quota_v2
        elif "cpu" in controllers.split(","):
            mounts, quota = [f"{root}/{controllers}", f"{root}/cpu"], quota_v1
        else:
            continue
        steps = path.strip("/").split("/")
        groups = ["/".join(steps[:n]) for n in range(len(steps) + 1)]
        quotas += [quota(f"{mount}/{group}") for mount in mounts for group in groups]
    return min((quota for quota in quotas if quota is not None), default=None)


def quota_v2(group: str) -> float | None:
    quota, _, period = read(f"{group}/cpu.max").partition(" ")
    return rate(quota, period)


def quota_v1(group: str) -> float | None:
    return rate(read(f"{group}/cpu.cfs_quota_us"), read(f"{group}/cpu.cfs_period_us"))  # -1: unlimited


def rate(quota: str, period: str) -> float | None:
    """Their ratio; None where they are no numbers, or none of which one can be had."""
    readable = quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0
    return int(quota) / int(period) if readable else None


def read(path: str) -> str:
    """The text of a file, empty if it is not there."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
