"""Whether this is one host of several, by what its scheduler says."""

import glob
import urllib.request
from collections.abc import Mapping

# What srun gives to each task; a script of sbatch itself has no step.
_SLURM = (
    *("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    *("SLURM_PROCID", "SLURM_LOCALID"),
)
_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


def scheduler(environ: Mapping[str, str]) -> str | None:
    """Who has started several processes of this program, as jax can find out too.

    - Slurm: SLURM_NTASKS above 1, in a task that srun started.
    - Open MPI: OMPI_COMM_WORLD_SIZE above 1, beside OMPI_MCA_orte_hnp_uri.
    - Cloud TPU: several names in TPU_PROCESS_ADDRESSES or TPU_WORKER_HOSTNAMES (GKE),
      MEGASCALE_NUM_SLICES above 1, or several workers in the metadata of a TPU VM,
      which is asked only where there are TPU chips and TPU_SKIP_MDS_QUERY is not set.

    JAX_PLATFORMS without tpu says that the TPU is not meant.

    Args:
        environ: the variables.

    Returns:
        Its name; None = this process is alone, or nobody says.

    Example:
        >>> scheduler({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
        'Cloud TPU'
        >>> scheduler({"TPU_WORKER_HOSTNAMES": "localhost"})
    """
    if all(name in environ for name in _SLURM) and _number(environ, "SLURM_NTASKS") > 1:
        return "Slurm"
    if "OMPI_MCA_orte_hnp_uri" in environ and (
        _number(environ, "OMPI_COMM_WORLD_SIZE") > 1
    ):
        return "Open MPI"
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return None
    names = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    listed = next((environ[name] for name in names if environ.get(name)), None)
    if listed is None:
        listed = _workers(environ)
    several = len(listed.split(",")) > 1
    if several or _number(environ, "MEGASCALE_NUM_SLICES") > 1:
        return "Cloud TPU"
    return None


def _workers(environ: Mapping[str, str]) -> str:
    """Workers of a TPU VM, by its metadata; empty where there is none."""
    if environ.get("TPU_SKIP_MDS_QUERY") or not _has_chips():
        return ""
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/{_METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    # The server is next door: through no proxy, and at once.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=3) as answer:
            return answer.read().decode()
    except (OSError, ValueError):
        return ""


def _has_chips() -> bool:
    """Whether there are chips that may be a TPU's."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdigit() else 0
