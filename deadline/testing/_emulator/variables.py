"""The environment variables that Lambda sets for a function."""

import datetime as dt
import os
import sys
import uuid
from collections.abc import Mapping


def lambda_variables(
    inherited: Mapping[str, str],
    env: Mapping[str, str],
    *,
    handler: str,
    path: str,
    memory: int,
    workers: int,
    runtime_api: str,
    tmp: str,
    snap_start: bool = False,
) -> dict[str, str]:
    """Return the environment of the runtime's process.

    The function's own `env` wins over Lambda's variables, and those over `inherited`, save for the region,
    which stays where there is one; only the address and the number of workers are beyond dispute.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
    """
    name = handler.replace("/", ".").rpartition(".")[0].replace(".", "-")
    region = region_of(inherited)
    variables = {
        **inherited,
        "_HANDLER": handler,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": _initialization_type(workers, snap_start=snap_start),
        "AWS_LAMBDA_LOG_FORMAT": "Text",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{dt.datetime.now(dt.UTC):%Y/%m/%d}/[$LATEST]{uuid.uuid4().hex}",
        "AWS_REGION": region,
        "LAMBDA_TASK_ROOT": path,
        "TMPDIR": tmp,
        "TZ": ":UTC",
        **env,
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
    }
    if "PYTHONPATH" in inherited and "PYTHONPATH" not in env:
        # The function runs in a folder of its own, where relative entries would lead elsewhere.
        entries = inherited["PYTHONPATH"].split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, entries))
    if snap_start:  # https://docs.aws.amazon.com/lambda/latest/dg/snapstart-monitoring.html
        del variables["AWS_LAMBDA_LOG_GROUP_NAME"], variables["AWS_LAMBDA_LOG_STREAM_NAME"]
    variables.pop("AWS_LAMBDA_MAX_CONCURRENCY", None)
    if workers > 1:
        variables["AWS_LAMBDA_MAX_CONCURRENCY"] = str(workers)
    return variables


def _initialization_type(workers: int, *, snap_start: bool) -> str:
    if snap_start:
        return "snap-start"
    return "on-demand" if workers == 1 else "lambda-managed-instances"


def region_of(inherited: Mapping[str, str]) -> str:
    """Return the region that this process is set to, or one."""
    return inherited.get("AWS_REGION") or inherited.get("AWS_DEFAULT_REGION") or "us-east-1"


def function_arn(variables: Mapping[str, str], qualifier: str | None = None) -> str:
    """Return the ARN of the function, in an account that is nobody's, as it was called."""
    region, name = variables["AWS_REGION"], variables["AWS_LAMBDA_FUNCTION_NAME"]
    arn = f"arn:aws:lambda:{region}:123456789012:function:{name}"
    return arn if qualifier is None else f"{arn}:{qualifier}"
