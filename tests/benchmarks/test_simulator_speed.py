"""The speed table's command, on a few requests: each case runs on each engine that is here."""

import simulator_speed
from simulator_speed import CASES, kvsim_run


def test_every_case_has_a_row_with_its_engines_and_its_preemptions(monkeypatch, capsys):
    few = 40
    monkeypatch.setattr(simulator_speed, "ORACLE_REQUESTS", 3)
    monkeypatch.setattr(simulator_speed, "dynosim", lambda: None)
    monkeypatch.setattr("sys.argv", ["simulator_speed.py", "--requests", str(few), "--repeat", "1"])
    simulator_speed.main()
    lines = capsys.readouterr().out.splitlines()
    for case in CASES:
        (line,) = (line for line in lines if line.startswith(f"{case.name} "))
        requests, ours, stepped, theirs, ratio, preempted = line.removeprefix(case.name).split()
        assert int(requests) == few
        assert int(ours.replace(",", "")) > 0
        assert int(stepped.replace(",", "")) > 0
        assert (theirs, ratio) == ("0", "0.0")
        assert preempted == f"{kvsim_run(case, few)['preemptions'] / few:.1%}"
