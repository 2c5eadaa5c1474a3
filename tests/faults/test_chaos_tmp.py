import os, random, signal, time
import pytest
from tests.core.conftest import s3
from tests.faults.test_two_machines import *
from tests.faults.test_two_machines import Hall, KEY, FILES

for n in [n for n in dir() if n.startswith("test_")]:
    del globals()[n]


@pytest.mark.parametrize("seed", range(12))
def test_chaos(s3, tmp_path, seed):
    rng = random.Random(seed)
    hall = Hall(s3, tmp_path, s3_endpoint())
    names = "ABCD"
    procs = {n: hall.start(n, pause_s=0.1, lease_s=0.7) for n in names}
    stopped = {}
    end = time.monotonic() + 12
    killed = set()
    while time.monotonic() < end and any(p.is_alive() for p in procs.values()):
        n = rng.choice(names)
        p = procs[n]
        if p.is_alive() and n not in stopped and rng.random() < 0.5:
            os.kill(p.pid, signal.SIGSTOP)
            stopped[n] = time.monotonic() + rng.uniform(0.2, 2)
        elif p.is_alive() and n not in stopped and len(killed) < 2 and rng.random() < 0.05:
            p.kill()
            killed.add(n)
        for m, t in list(stopped.items()):
            if time.monotonic() > t:
                os.kill(procs[m].pid, signal.SIGCONT)
                del stopped[m]
        time.sleep(rng.uniform(0, 0.15))
    for m in stopped:
        os.kill(procs[m].pid, signal.SIGCONT)
    for n, p in procs.items():
        p.join(60)
        assert p.exitcode == 0 or n in killed, (n, p.exitcode, hall.log())
    found = hall.store.look("signed", KEY, verify=True)
    assert found.problem == "", hall.log()
    texts = {found.artifact.path(f).read_text().split()[0] for f in FILES}
    assert len(texts) == 1
    print(seed, killed, [l for l in hall.log() if "begins" not in l])
