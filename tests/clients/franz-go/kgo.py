"""franz-go's own integration tests of kgo, as its authors wrote them, against a broker; see ../README.md.

kgo.py PROGRAM: the tests, built by `go test -c`. They run in the folder of their package, where some look for files. Share
groups and SCRAM are not served and their tests are left out. Arguments behind PROGRAM: only tests with one of these in their name.
"""
import os
import re
import subprocess
import sys

RECORDS = 20_000
LEFT_OUT = "Share|SCRAM"
HERE = os.path.dirname(os.path.abspath(__file__))


def main(program, *only):
    folder = subprocess.run(["go", "list", "-f", "{{.Dir}}", "github.com/twmb/franz-go/pkg/kgo"], cwd=HERE, check=True,
                            capture_output=True, text=True, timeout=60).stdout.strip()
    env = {**os.environ, "KGO_SEEDS": os.environ["BOOTSTRAP"], "KGO_TEST_RECORDS": str(RECORDS), "KGO_TEST_RF": "1"}
    tests = subprocess.Popen([program, "-test.v", "-test.timeout", "840s", "-test.skip", LEFT_OUT, "-test.run", "|".join(only)],
                             cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = 0
    for line in tests.stdout:
        sys.stderr.write(line)
        ended = re.match(r"--- (PASS|FAIL): (\S+) \((\S+)s\)", line)
        if ended and ended[1] == "PASS":
            print(f"ok    {ended[2]} ({ended[3]} s)", flush=True)
        elif ended:
            failed += 1
            print(f"FAIL  {ended[2]}: see the log", flush=True)
    code = tests.wait()
    if code and not failed:
        print(f"FAIL  kgo's tests end well: exit code {code}", flush=True)
    sys.exit(1 if code or failed else 0)


main(*sys.argv[1:])
