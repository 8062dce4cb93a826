#!/usr/bin/env python3
"""A client of the controller's API, made from the .proto files alone: backs up, verifies, restores.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../../proto --python_out=. --grpc_python_out=. \\
        neurashield/backup/v1/common.proto neurashield/backup/v1/agent.proto neurashield/backup/v1/user.proto
    python backup_client.py backup                      # prints the new backup's name
    python backup_client.py verify 20260101_010000
    python backup_client.py restore 20260101_010000 --components database,models [--folder DIR]

The environment says where and who: NEURASHIELD_SERVER (HOST:8443), NSCTL_TOKEN (`nsctl token create`, role operator),
NEURASHIELD_CA (the file `ca.crt` of the controller's state folder). Leaves with 0 if all is well, with 3 if a backup
is there and not complete, with 1 if the job failed.
"""

import argparse
import os
import sys
import time
import uuid

import grpc

from neurashield.backup.v1 import common_pb2 as common
from neurashield.backup.v1 import user_pb2 as api
from neurashield.backup.v1 import user_pb2_grpc as calls

ENDS = {api.JOB_STATE_COMPLETE: 0, api.JOB_STATE_INCOMPLETE: 3, api.JOB_STATE_FAILED: 1, api.JOB_STATE_CANCELLED: 1}
# An answer; a job is followed without an end.
ANSWER = 120
# A controller that is away (it is restarted, upgraded) is waited for so long, and asked again after such a pause.
AWAY, PAUSE = 600, 2


def channel():
    """A connection that shows the token with every call, over TLS to the controller that the certificate is of."""
    with open(os.environ["NEURASHIELD_CA"], "rb") as file:
        tls = grpc.ssl_channel_credentials(file.read())
    token = grpc.access_token_call_credentials(os.environ["NSCTL_TOKEN"].strip())
    return grpc.secure_channel(os.environ["NEURASHIELD_SERVER"], grpc.composite_channel_credentials(tls, token))


def follow(jobs, job):
    """Tells what a job does until it has ended. A stream that breaks off goes on after the last event seen, also
    where the controller was started anew meanwhile."""
    seen, away = 0, None
    while job.state not in ENDS:
        try:
            for event in jobs.WatchJob(api.WatchJobRequest(id=job.id, after=seen)):
                seen, job, away = event.sequence, event.job, None
                if event.line:
                    print(event.line, file=sys.stderr)
            job, away = jobs.GetJob(api.GetJobRequest(id=job.id), timeout=ANSWER), None
        except grpc.RpcError as error:
            away = away or time.monotonic()
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() - away > AWAY:
                raise
            time.sleep(PAUSE)
    if job.what:
        print(f"error: {job.what}\n  {job.why}\n  {job.hint}", file=sys.stderr)
    return job


def restore(jobs, wish):
    """What a person or a script does in two steps: look at the plan, and order just that. In between nothing may
    change what it says, or the controller refuses."""
    plan = jobs.PlanRestore(wish, timeout=ANSWER)
    for source in plan.sources:
        print(f"{source.source.component}/{source.source.name}: {source.entries} entries", file=sys.stderr)
        if source.obstacles:
            raise SystemExit("error: " + "; ".join(source.obstacles))
    order = api.StartRestoreRequest(request=plan.request, digest=plan.digest, request_id=str(uuid.uuid4()))
    return jobs.StartRestore(order, timeout=ANSWER)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["backup", "verify", "restore"])
    parser.add_argument("backup", nargs="?", default="latest")
    parser.add_argument("--components", type=lambda text: text.split(","), default=[])
    parser.add_argument("--folder", default="", help="restore into this folder of the agent instead of in place")
    asked = parser.parse_args()
    # An order whose answer was lost may be repeated under the same name: nothing is done twice.
    name = str(uuid.uuid4())
    with channel() as connection:
        jobs = calls.JobsStub(connection)
        if asked.what == "backup":
            order = api.StartBackupRequest(components=asked.components, request_id=name)
            job = jobs.StartBackup(order, timeout=ANSWER)
        elif asked.what == "verify":
            order = api.StartVerifyRequest(
                backup=asked.backup, components=asked.components, depth=common.DEPTH_OPENED, request_id=name
            )
            job = jobs.StartVerify(order, timeout=ANSWER)
        else:
            wish = api.PlanRestoreRequest(
                backup=asked.backup, components=asked.components, folder=asked.folder
            )
            job = restore(jobs, wish)
        job = follow(jobs, job)
    print(job.backup)
    return ENDS[job.state]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(f"error: {error.code().name}: {error.details()}")
