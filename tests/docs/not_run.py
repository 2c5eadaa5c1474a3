"""The commands of the documentation that tests do not run, each with the reason; their syntax is checked instead."""

MAKE = "what a caller of this suite types; it installs, or takes minutes"
INSTALL = "installs packages; tests/infra/test_setup.py runs what make calls"
SERVER = "starts or needs a Prefect server that stays; the tests of tests/flows run it with a server of their own"
PARTITIONS = "needs a source that is cut into partitions; tests/pipeline/test_backfill.py has one"
DOCKER = "needs Docker; tests/infra parses the files and runs the containers' commands as processes"
KUBERNETES = "needs a cluster; tests/infra/test_kubernetes.py holds the template against Kubernetes' models"
WRITES = "writes into this checkout; tests/docs/test_cli_reference.py compares the page with the commands"

NOT_RUN = {
    "make demo": MAKE,
    "make test": MAKE,
    'make test ARGS="tests/benchmarks -x"': MAKE,
    "make check": MAKE,
    "make faults": MAKE,
    "make bench": MAKE,
    "pip install -c constraints.txt . && pip uninstall -y dataclasses": INSTALL,
    "uv pip install -c constraints.txt .": INSTALL,
    'zscir serve my.toml --schedule "0 3 * * *" --timezone Europe/Berlin': SERVER,
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": SERVER,
    "zscir deploy other.toml --interval 3600": SERVER,
    'zscir deploy my.toml --schedule "0 3 * * *" --partition day': SERVER,
    "zscir backfill my.toml --from 2026-11-01 --to 2026-11-30": PARTITIONS,
    "zscir backfill my.toml --from 0 --to 99": PARTITIONS,
    "cp infra/env.example infra/.env": DOCKER,
    "docker compose -f infra/compose.yaml --env-file infra/.env up --build --wait": DOCKER,
    "docker compose -f infra/compose.yaml --env-file infra/.env cp specs worker:/store/specs": DOCKER,
    "docker compose -f infra/compose.yaml --env-file infra/.env exec worker "
    'zscir deploy /store/specs/photos.toml --schedule "0 3 * * *" --timezone Europe/Berlin': DOCKER,
    "docker compose -f infra/compose.yaml --env-file infra/.env exec worker zscir demo": DOCKER,
    "PREFECT_API_URL=http://HOST:4200/api PREFECT_API_AUTH_STRING=user:password ZSCIR_STORE=s3://bucket/prefix "
    "prefect worker start --pool zscir --type process": SERVER,
    "PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_API_AUTH_STRING=user:password zscir run my.toml": SERVER,
    "prefect work-pool create gpu --type process": SERVER,
    "PREFECT_API_URL=http://server:4200/api prefect worker start --pool gpu": SERVER,
    "PREFECT_API_URL=http://server:4200/api zscir run my.toml --store s3://bucket/prefix": SERVER,
    "kubectl create namespace zscir": KUBERNETES,
    "kubectl -n zscir create secret generic zscir-s3 --from-literal=AWS_ACCESS_KEY_ID=... "
    "--from-literal=AWS_SECRET_ACCESS_KEY=...": KUBERNETES,
    "prefect work-pool create gpu --type kubernetes --base-job-template infra/kubernetes/gpu-pool.json": KUBERNETES,
    "export PREFECT_INTEGRATIONS_KUBERNETES_WORKER_STORE_ENV_AS_SECRET=true": KUBERNETES,
    "prefect worker start --pool gpu": KUBERNETES,
    "zscir run my.toml --store s3://bucket/prefix --set dispatch.train=gpu": KUBERNETES,
    ".venv/bin/python -m zscir.cli.reference --write": WRITES,
}
